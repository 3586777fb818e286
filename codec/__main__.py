"""`python -m codec` is the command `codec`."""

from cli import app

if __name__ == "__main__":
    app(prog_name="codec")
