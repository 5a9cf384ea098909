"""A vLLM server of this process's own: started, watched, and stopped with all it started."""

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from sepsis_gym.errors import BackendError, ConfigError

FLAGS = (
    *("--host", "127.0.0.1"),
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    "--enable-prefix-caching",
)
"""What every server of ours is started with; options given later override them."""
_TOLD_LINES = 40
_STOP_SECONDS = 15
_PR_SET_PDEATHSIG = 1


@contextmanager
def serving(
    model: str,
    *,
    port: int = 8000,
    options: Sequence[str] = (),
    command: str = "vllm",
    patience_s: float = 900,
    log: Path | None = None,
    waiting: Callable[[str], None] | None = None,
) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """Serves a model on this machine while the block runs; yields its base URL and the process.

    The server gets a process group of its own, which is ended with the block whatever ends that,
    and on Linux is told to end if this process is killed.

    Args:
        model: Folder, or name on the Hugging Face hub.
        port: On the loopback.
        options: Further options of ``vllm serve``, such as ``--tensor-parallel-size 2``.
        command: The vllm to run.
        patience_s: How long it may take to come up.
        log: File for all it prints; a temporary one if None.
        waiting: Told the last line of the log, about once a second, until it is up.

    Raises:
        ConfigError: Something listens on the port.
        BackendError: The server ended or did not come up; the end of its log is told.
        ImportError: There is no vllm.
    """
    found = shutil.which(command)
    if found is None:
        raise ImportError(f'{command} is missing: pip install "sepsis-gym[serve]"')
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise ConfigError(f"something listens on port {port}: choose another with --port")
    with tempfile.TemporaryDirectory() as folder:
        written = log or Path(folder) / "vllm.log"
        with written.open("wb") as file:
            server = subprocess.Popen(
                [found, "serve", model, "--port", str(port), *FLAGS, *options],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_dies_with(os.getpid()) if sys.platform == "linux" else None,
            )
        try:
            _wait(server, f"http://127.0.0.1:{port}/health", written, patience_s, waiting)
            yield f"http://127.0.0.1:{port}/v1", server
        finally:
            _stop(server)


def _dies_with(parent: int) -> Callable[[], None]:
    """Has the kernel end the child as soon as its parent is no more, even by SIGKILL."""
    libc = ctypes.CDLL(None)  # loaded before the fork: there is no safe time after it

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it died in between
            os._exit(1)

    return ask


def _wait(
    server: "subprocess.Popen[bytes]",
    health: str,
    log: Path,
    patience_s: float,
    waiting: Callable[[str], None] | None,
) -> None:
    until = time.monotonic() + patience_s
    while server.poll() is None and time.monotonic() < until:
        try:
            with urlopen(health, timeout=5):
                return
        except (URLError, OSError):
            if waiting is not None:
                waiting((last_lines(log, 1) or [""])[0])
            time.sleep(1)
    code = server.poll()
    ended = "is not up yet" if code is None else f"ended with code {code}"
    told = "\n".join(last_lines(log, _TOLD_LINES))
    raise BackendError(f"vLLM {ended}; the end of its log:\n{told}")


def last_lines(log: Path, n: int) -> list[str]:
    """The end of a log, at most 64 KB of it."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 65536))
        return file.read().decode(errors="replace").splitlines()[-n:]


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """Asks the whole process group to end, then makes it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(server.pid, sign)
        except ProcessLookupError:
            break
        try:
            server.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            continue
    server.wait()
