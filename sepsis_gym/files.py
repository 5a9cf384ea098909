"""Writing results whole or not at all."""

import errno
import os
import shutil
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
    _empty_folder_beside(target).rmdir()
    return target


def _empty_folder_beside(target: Path) -> Path:
    """Where the files are written first; its fixed name lets a run find what a killed one left."""
    folder = target.parent / f".{target.name}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


@contextmanager
def whole_folder(target: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a temporary folder whose files become those of ``target`` when the block succeeds.

    If the block fails, ``target`` is as it was. Other files in an existing ``target`` are left.

    Raises:
        ConfigError: ``target`` is a file.
        OSError: The disk is full, or ``target`` cannot be written.
    """
    target = check_target(target)
    temporary = _empty_folder_beside(target)
    try:
        yield temporary
        if target.is_dir():
            for path in sorted(temporary.iterdir()):
                os.replace(path, target / path.name)
        else:
            os.replace(temporary, target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(f"{target}: the disk is full; make room and run it again") from error
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
