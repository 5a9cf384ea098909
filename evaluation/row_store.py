"""Rows that were scored before, so that an evaluation that was stopped goes on."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evaluation.results import Row, from_plain
from sepsis_gym.errors import SourceError


class RowStore:
    """A folder of rows by what they depend on."""

    def __init__(self, folder: Path, shared: Mapping[str, Any]) -> None:
        """Names the folder, which is made when the first row comes.

        Args:
            folder: Where rows lie.
            shared: What all rows depend on, plain JSON.
        """
        self._folder, self._shared = folder, shared

    def read(self, agent: str, digest: str) -> Row | None:
        """The row of this agent, or None if it is not there.

        Args:
            agent: Its name.
            digest: Of all that makes up the agent.

        Raises:
            SourceError: The file is damaged.
        """
        file = self._file(agent, digest)
        if not file.is_file():
            return None
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SourceError(f"{file}: is damaged: {error}; delete it") from error
        return from_plain(plain, Row, source=file)

    def write(self, row: Row, digest: str) -> None:
        """Keeps a row, to the last bit.

        Args:
            row: The row.
            digest: Of all that makes up the agent.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._file(row.agent, digest)
        partial = file.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(row), default=_plain_number), encoding="utf-8")
        os.replace(partial, file)

    def _file(self, agent: str, digest: str) -> Path:
        depends = json.dumps([agent, digest, self._shared], sort_keys=True)
        return self._folder / f"{hashlib.sha256(depends.encode()).hexdigest()[:20]}.json"


def _plain_number(number: Any) -> Any:
    return number.item()  # numpy's scalars
