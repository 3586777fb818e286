"""What experiments need beyond the base installation."""

from __future__ import annotations

import sys
from typing import NoReturn


def without_package(error: ImportError) -> NoReturn:
    """Say in one line which package is missing, and leave with exit code 2."""
    text = f"error: {error.name} is missing: pip install '.[experiments]' brings it"
    print(text, file=sys.stderr)
    raise SystemExit(2) from None
