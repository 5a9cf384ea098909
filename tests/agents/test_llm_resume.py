"""An evaluation of a language model that is killed goes on, and ends as if it had not been."""

import json
import signal
import subprocess
import sys
import threading
import time
import zlib
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import Prescriber

pytest.importorskip("openai", reason="the llm extra is not installed")

ROOT = Path(__file__).parents[2]
COHORT = ROOT / "sepsis_gym" / "sample_cohort"


class Slow(Prescriber):
    """Prescribes by the state alone, and takes its time."""

    def prescribe(self, asked):
        time.sleep(0.01)
        level = zlib.crc32(asked["messages"][1]["content"].encode()) % 5
        return {"iv_fluid": level, "vasopressor": 0}


@pytest.fixture
def server():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def start(out, server):
    code = "from sepsis_gym.cli import main; main()"
    command = [sys.executable, "-c", code, "evaluate", "--cohort", str(COHORT), "--out", str(out)]
    command += ["--base-url", server, "--llm-model", "m", "--mode", "direct", "--workers", "4"]
    command += ["--resamples", "50", "--world-model", "None", "--truth-patients", "0"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)


def answered(out):
    lines = [line for file in out.glob("rows/*.jsonl") for line in file.read_bytes().splitlines()]
    return len(lines[1:])  # less what the file is about


def test_a_run_that_was_killed_goes_on_and_ends_alike(tmp_path, server):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole, server).wait() == 0
    run = start(killed, server)
    while answered(killed) < 6 and run.poll() is None:
        time.sleep(0.005)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = answered(killed)
    n_stays = answered(whole)
    assert 6 <= before < n_stays
    assert not (killed / "results.json").exists()
    assert start(killed, server).wait() == 0
    assert answered(killed) == n_stays  # none was asked twice, none forgotten
    results = [json.loads((out / "results.json").read_text()) for out in (whole, killed)]
    assert results[0] == results[1]
    llm = next(row for row in results[0]["rows"] if row["agent"] == "llm")
    decisions = results[0]["cohort"]["n_decisions"]
    assert llm["counts"]["decisions"] == llm["counts"]["requests"] == decisions
    assert llm["provenance"]["model"] == "m"
    assert len(llm["provenance"]["prompt_sha256"]) == 64
    told = (killed / "results.txt").read_text()
    assert "repairs 0 (0.0%), fallbacks 0 (0.0%)" in " ".join(told.split())
