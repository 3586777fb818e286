"""Work for `codec.runner` that can be sent to other processes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.errors import WeightsError


@dataclass(frozen=True)
class Squares:
    """Square numbers, slowly if asked to; die of some, and note each try in a folder."""

    folder: Path
    deadly: tuple[int, ...] = ()
    seconds: float = 0.0
    refuses: bool = False

    def __call__(self) -> Callable[[int, Any], int]:
        if self.refuses:
            raise WeightsError("other weights here")
        (self.folder / f"loaded.{os.getpid()}").touch()
        return self.square

    def square(self, number: int, stop: Any) -> int:
        with (self.folder / f"try.{number}").open("a") as file:
            file.write(f"{os.getpid()}\n")
        if number in self.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        return number * number


def tries(folder: Path, number: int) -> int:
    """Return how often a number was tried."""
    path = folder / f"try.{number}"
    return len(path.read_text().splitlines()) if path.exists() else 0


SLEEP_SECONDS = 60.0


class Sleeper:
    """Setup of work that sleeps, or ends its process once another sleeps."""

    def __init__(self, folder: Path) -> None:
        self.asleep = folder / "asleep"

    def __call__(self):
        return self.work

    def work(self, item: str, stop: object) -> None:
        if item == "sleep":
            self.asleep.touch()
            time.sleep(SLEEP_SECONDS)
        while not self.asleep.exists():
            time.sleep(0.05)
        os._exit(9)
