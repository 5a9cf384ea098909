"""What an agent answered stay by stay, so that asking goes on where it was stopped."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.estimators import Floats
from sepsis_gym.errors import SourceError


@dataclass(frozen=True)
class StayAnswers:
    """One stay.

    Attributes:
        probabilities: [T + 1, 25].
        counts: The agent's counters for this stay.
    """

    probabilities: Floats
    counts: Mapping[str, int] = field(default_factory=dict)


class AnswerStore:
    """A file of JSON lines: what was asked whom, then a line per stay, on disk before the next.

    A run that is killed loses the stays in flight and no more: a line that was cut off is dropped.

    Attributes:
        answered: What was kept, by stay.
        failed: Why other stays failed, by stay.
    """

    def __init__(self, file: Path, about: Mapping[str, Any], *, retry_failed: bool = False) -> None:
        """Reads what is kept.

        Args:
            file: Where; made when the first stay comes.
            about: What makes up the agent, plain JSON; the first line.
            retry_failed: Whether stays that failed before are forgotten.

        Raises:
            SourceError: The file is damaged, or is about another agent.
        """
        self._file, self._about = file, dict(about)
        self.answered: dict[int, StayAnswers] = {}
        self.failed: dict[int, str] = {}
        if file.is_file():
            self._read()
        if retry_failed:
            self.failed = {}

    def _read(self) -> None:
        content = self._file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._file, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                if number == 1:
                    if entry != self._about:
                        raise SourceError(f"{self._file}: is about another agent; delete it")
                elif "failed" in entry:
                    self.failed[entry["stay_id"]] = entry["failed"]
                else:
                    told = np.array(entry["probabilities"], np.float64)
                    self.answered[entry["stay_id"]] = StayAnswers(told, entry["counts"])
                    self.failed.pop(entry["stay_id"], None)
            except (ValueError, KeyError, TypeError) as error:
                where = f"{self._file}, line {number}"
                raise SourceError(f"{where}: is damaged: {error!r}; delete the file") from error

    def keep(self, stay_id: int, told: StayAnswers | Exception) -> None:
        """Adds a stay, to the last bit, or why it failed."""
        if isinstance(told, StayAnswers):
            answers = {"probabilities": told.probabilities.tolist(), "counts": dict(told.counts)}
            self._append({"stay_id": stay_id, **answers})
        else:
            self._append({"stay_id": stay_id, "failed": str(told)})

    def _append(self, entry: Mapping[str, Any]) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        begun = self._file.is_file() and self._file.stat().st_size > 0
        lines = [entry] if begun else [self._about, entry]
        with self._file.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
            file.flush()
            os.fsync(file.fileno())
