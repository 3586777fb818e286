"""Keep each score on the disk as soon as it is there, so that a run that was stopped goes on.

``clips.jsonl`` has one JSON object a line: first what the run is made with, then for each clip,
codec and rate what `results.ClipScore` has of it (for each loss), in the order in which they were
scored, last that all is done. A line that a crash has cut off is left out when the file is read.
"""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from codec.errors import AudioError
from evaluation.results import ClipScore

JOURNAL_NAME = "clips.jsonl"
_FIELDS = (
    "file", "codec", "rate", "loss", "duration_s", "measured_kbps", "payload_kbps", "encode_s",
    "decode_s", "scores", "failures",
)  # fmt: skip


class Journal:
    """The lines of one run.

    Parameters
    ----------
    folder : directory, made if need be; None: a temporary file, which is gone at the end
    settings : dict     what the run is made with; JSON
    num_tasks : int     that the run has
    resume : bool       go on with what is there

    Attributes
    ----------
    done : bool array, shape [num_tasks]   which tasks are in it

    Raises
    ------
    ValueError   what is there was made with other settings, or is unfinished and would be lost
    AudioError   the file cannot be written
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        settings: dict[str, Any],
        num_tasks: int,
        resume: bool = False,
    ) -> None:
        self.done = np.zeros(num_tasks, np.bool_)
        self.resumed = 0
        if folder is None:
            self._file: IO[bytes] = tempfile.TemporaryFile()
            self._put({"settings": settings})
            return
        self.path = Path(folder) / JOURNAL_NAME
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            there = self.path.exists() and self.path.stat().st_size > 0
            self._file = open(self.path, "r+b" if there else "w+b")
        except OSError as error:
            raise AudioError(f"{self.path}: cannot be written ({error.strerror})") from error
        try:
            if there and self._go_on(settings, resume):
                self.resumed = int(self.done.sum())
                return
            self._file.seek(0)
            self._file.truncate()
            self._put({"settings": settings})
        except BaseException:
            self._file.close()
            raise

    def _go_on(self, settings: dict[str, Any], resume: bool) -> bool:
        """Take in the lines that are there; tell whether they are to be kept."""
        end, complete = 0, False
        former = None
        for line in iter(self._file.readline, b""):
            try:
                content = json.loads(line)
                if not (line.endswith(b"\n") and isinstance(content, dict)):
                    break
            except ValueError:
                break  # cut off
            if former is None:
                former = content.get("settings")
            elif resume and (task := content.get("task")) is not None and task < len(self.done):
                self.done[task] = True
            complete = complete or "complete" in content
            end += len(line)
        if former is None:
            return False
        if not resume:
            if not complete:
                raise ValueError(
                    f"{self.path}: holds scores of a run that was stopped; go on with --resume, or "
                    "remove the file"
                )
            return False
        different = [key for key in settings if former.get(key) != settings[key]]
        if different:
            key = different[0]
            raise ValueError(
                f"{self.path}: was begun with other settings ({key} {former.get(key)!r}, now "
                f"{settings[key]!r}); use the same ones, or another --out"
            )
        self._file.seek(end)
        self._file.truncate()  # a line that was cut off
        return True

    def _put(self, content: dict[str, Any]) -> None:
        data = json.dumps(content, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            name = getattr(self, "path", "temporary file of scores")
            raise AudioError(f"{name}: cannot be written ({error.strerror})") from error

    def append(self, task: int, clips: Sequence[ClipScore]) -> None:
        """Add what came of a task, which is on the disk when this returns.

        Parameters
        ----------
        task : int   its number
        clips : one for each loss
        """
        rows = []
        for clip in clips:
            row = {name: getattr(clip, name) for name in _FIELDS}
            row["scores"] = {k: None if v is None else float(v) for k, v in clip.scores.items()}
            rows.append(row)
        self._put({"task": task, "clips": rows})
        self.done[task] = True

    def finish(self) -> None:
        """Note that all tasks are done."""
        self._put({"complete": True})

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self) -> Iterator[ClipScore]:
        """Yield all that is in it, in the order of the tasks; of what was done twice, the last."""
        for place in self._order():
            self._file.seek(int(place))
            for row in json.loads(self._file.readline())["clips"]:
                row["failures"] = [(metric, reason) for metric, reason in row["failures"]]
                yield ClipScore(**row)
        self._file.seek(0, os.SEEK_END)

    def _order(self) -> NDArray[np.int64]:
        """Return where in the file the lines of scores begin, in the order of the tasks."""
        tasks, places, place = array("q"), array("q"), 0
        self._file.seek(0)
        for line in iter(self._file.readline, b""):
            if line.startswith(b'{"task": '):
                tasks.append(int(line[9 : line.index(b",", 9)]))
                places.append(place)
            place += len(line)
        # The later of two lines of a task takes the place of the former.
        numbers, starts = np.array(tasks)[::-1], np.array(places)[::-1]
        _, last = np.unique(numbers, return_index=True)
        return starts[last]
