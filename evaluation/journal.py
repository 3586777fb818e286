"""Keep each score on the disk as soon as it is there, so that a run that was stopped goes on.

``clips.jsonl`` has one JSON object a line: first what the run is made with, then for each clip,
codec and rate what `results.ClipScore` has of it (for each loss), in the order in which they were
scored, last that all is done. A line that a crash has cut off is left out when the file is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from codec.errors import AudioError
from evaluation.results import ClipScore

JOURNAL_NAME = "clips.jsonl"
_FIELDS = (
    "file", "codec", "rate", "loss", "duration_s", "measured_kbps", "payload_kbps", "encode_s",
    "decode_s", "scores", "failures", "notes",
)  # fmt: skip

_UNSAID = {"effort": "normal"}  # settings that runs of earlier versions do not name


class Journal:
    """The lines of one run; of each task, only where its line begins is in memory.

    Parameters
    ----------
    folder : directory, made if need be; None: a temporary file, which is gone at the end
    settings : dict     what the run is made with; JSON
    num_tasks : int     that the run has
    resume : bool       go on with what is there

    Attributes
    ----------
    num_tasks : int
    resumed : int   tasks that were there at the start

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
        self.num_tasks = num_tasks
        self._places = np.full(num_tasks, -1, np.int64)
        self.resumed = 0
        if folder is None:
            self._file: IO[bytes] = tempfile.TemporaryFile()
        else:
            self.path = Path(folder) / JOURNAL_NAME
            try:
                self._file = self._open(settings, resume)
            except OSError as error:
                raise AudioError(f"{self.path}: cannot be written ({error.strerror})") from error
        weakref.finalize(self, self._file.close)  # whoever reads it may outlive the run
        self.resumed = self.count
        if not self._file.seek(0, os.SEEK_END):
            self._put({"settings": settings})

    def _open(self, settings: dict[str, Any], resume: bool) -> IO[bytes]:
        """Return the file of a run that goes on, at its end, or a new one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and self.path.stat().st_size > 0:
            with contextlib.ExitStack() as stack:
                file = stack.enter_context(open(self.path, "r+b"))
                self._lock(file)
                if self._go_on(file, settings, resume):
                    stack.pop_all()
                    return file
            self.path.unlink()  # results of the former run may still read it
        file = open(self.path, "w+b")
        self._lock(file)
        return file

    def _lock(self, file: IO[bytes], keep: bool = True) -> None:
        """Keep the file for this run, or let others write it again."""
        with contextlib.suppress(ImportError):  # not on Windows
            import fcntl

            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB if keep else fcntl.LOCK_UN)
            except BlockingIOError as error:
                raise ValueError(f"{self.path}: another run is writing it; wait for it") from error

    @property
    def count(self) -> int:
        """How many tasks are in it."""
        return int((self._places >= 0).sum())

    def __contains__(self, task: int) -> bool:
        """Tell whether a task is in it."""
        return bool(self._places[task] >= 0)

    def _go_on(self, file: IO[bytes], settings: dict[str, Any], resume: bool) -> bool:
        """Take in the lines that are there; tell whether they are to be kept."""
        end, complete = 0, False
        former: dict[str, Any] | None = None
        for line in iter(file.readline, b""):
            try:
                content = json.loads(line)
                if not (line.endswith(b"\n") and isinstance(content, dict)):
                    break
            except ValueError:
                break  # cut off
            if former is None:
                former = content.get("settings")
                if former is None:
                    raise ValueError(
                        f"{self.path}: holds no scores of `codec eval`; use another --out, or "
                        "remove the file"
                    )
            elif (task := content.get("task")) is not None and task < self.num_tasks:
                self._places[task] = end  # of what was done twice, the last counts
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
            self._places[:] = -1
            return False
        former = _UNSAID | former
        different = [key for key in settings if former.get(key) != settings[key]]
        if different:
            key = different[0]
            raise ValueError(
                f"{self.path}: was begun with other settings ({key} {former.get(key)!r}, now "
                f"{settings[key]!r}); use the same ones, or another --out"
            )
        file.seek(end)
        file.truncate()  # a line that was cut off
        return True

    def _put(self, content: dict[str, Any]) -> int:
        """Add a line, which is on the disk when this returns; return where it begins."""
        data = json.dumps(content, ensure_ascii=True, allow_nan=False).encode() + b"\n"
        try:
            place = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
            self._file.flush()
            return place
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
        self._places[task] = self._put({"task": task, "clips": rows})

    def finish(self) -> None:
        """Note that all tasks are done."""
        self._put({"complete": True})
        self._lock(self._file, False)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, task: int) -> list[ClipScore]:
        """Return what came of a task, one for each loss; nothing if it is not in it."""
        if task not in self:
            return []
        self._file.seek(int(self._places[task]))
        clips = []
        for row in json.loads(self._file.readline())["clips"]:
            row["failures"] = [(metric, reason) for metric, reason in row["failures"]]
            clips.append(ClipScore(**row))
        return clips
