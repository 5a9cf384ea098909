"""Writing results whole or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sepsis_gym.errors import ConfigError


def check_target(target: str | os.PathLike[str]) -> Path:
    """Makes sure that a folder can be written, before the work whose result it is to hold.

    Raises:
        ConfigError: ``target`` is a file.
        OSError: Its parent cannot be written.
    """
    target = Path(target)
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: is a file; name a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-"):
        pass
    return target


@contextmanager
def whole_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder whose files become those of ``target`` when the block succeeds.

    If the block fails, ``target`` is as it was. Other files in an existing ``target`` are left.

    Raises:
        ConfigError: ``target`` is a file.
    """
    target = check_target(target)
    temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes it private
        if target.is_dir():
            for path in sorted(temporary.iterdir()):
                os.replace(path, target / path.name)
        else:
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
