"""`python -m codec` is the command `codec`."""

import sys
from pathlib import Path

# What belongs to this package comes before a `cli.py` of the working directory.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from cli import main  # noqa: E402

if __name__ == "__main__":
    main()
