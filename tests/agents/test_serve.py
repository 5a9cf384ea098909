import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from agents.llm.serve import serving
from sepsis_gym.errors import BackendError, ConfigError

FAKE_VLLM = """\
#!{python}
# Takes the place of vllm: one more process, a slow start, then /health.
import http.server, json, os, pathlib, subprocess, sys, time
model, port = sys.argv[2], int(sys.argv[sys.argv.index("--port") + 1])
print("loading", model, flush=True)
if model == "broken":
    print("no such weights", flush=True)
    sys.exit(3)
worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
pathlib.Path(model).write_text(json.dumps([os.getpid(), worker.pid, sys.argv]))
time.sleep(600 if model.endswith("slow") else 0.5)

class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

import signal
def leave(*_):
    worker.terminate()
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""


@pytest.fixture
def vllm(tmp_path):
    script = tmp_path / "vllm"
    script.write_text(FAKE_VLLM.format(python=sys.executable))
    script.chmod(0o755)
    return str(script)


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def started(note):
    return json.loads(Path(note).read_text())


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def gone(*pids, within_s=10):
    until = time.monotonic() + within_s
    while any(map(alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_it_is_up_in_the_block_and_gone_after_it(vllm, port, tmp_path):
    note, seen = str(tmp_path / "note"), []
    with serving(
        note, port=port, options=("--dtype", "bfloat16"), command=vllm, waiting=seen.append
    ) as (base_url, _):
        assert base_url == f"http://127.0.0.1:{port}/v1"
        assert urlopen(f"http://127.0.0.1:{port}/health").status == 200
        *pids, argv = started(note)
        assert all(map(alive, pids))
    assert gone(*pids)
    assert argv[argv.index("--tool-call-parser") + 1] == "hermes"
    assert "--enable-prefix-caching" in argv
    assert argv[-2:] == ["--dtype", "bfloat16"]
    assert seen


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_it_is_gone_whatever_ends_the_block(vllm, port, tmp_path, error):
    note = str(tmp_path / "note")
    with pytest.raises(error), serving(note, port=port, command=vllm):
        raise error
    assert gone(*started(note)[:2])


def test_a_server_that_fails_tells_the_end_of_its_log(vllm, port):
    with (
        pytest.raises(BackendError, match=r"code 3(?s:.*)no such weights"),
        serving("broken", port=port, command=vllm),
    ):
        pass


def test_a_server_that_is_not_up_in_time_is_stopped(vllm, port, tmp_path):
    note = str(tmp_path / "slow")
    with (
        pytest.raises(BackendError, match="not up yet"),
        serving(note, port=port, command=vllm, patience_s=5),
    ):
        pass
    assert gone(*started(note)[:2])


def test_a_taken_port_and_a_missing_command_are_told(vllm, port):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        with (
            pytest.raises(ConfigError, match="choose another"),
            serving("m", port=port, command=vllm),
        ):
            pass
    with pytest.raises(ImportError, match="serve"), serving("m", port=port, command="no-such-vllm"):
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's help is Linux's")
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_command_leaves_no_orphan_however_it_ends(vllm, port, tmp_path, sign):
    note = str(tmp_path / "note")
    code = "from sepsis_gym.cli import main; main()"
    command = [sys.executable, "-c", code, "llm", "serve", note, "--port", str(port)]
    command += ["--vllm", vllm, "--", "--tensor-parallel-size", "2"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as a script's job is
    ) as run:
        assert b"--base-url" in run.stdout.readline()
        *pids, argv = started(note)
        assert argv[-2:] == ["--tensor-parallel-size", "2"]
        assert all(map(alive, pids))
        os.kill(run.pid, sign)
    assert gone(*pids)
