"""`python -m codec` is the command `codec`."""

from cli import main

if __name__ == "__main__":
    main()
