import importlib.util
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert set(lengths) == {"env_loop.py", "offline_agent.py", "llm_agent.py"}
    assert max(lengths.values()) < 60


def test_env_loop(capsys):
    total = load("env_loop").main(seed=3)
    told = capsys.readouterr().out
    assert f"return {total:+.2f}" in told
    assert "SOFA" in told


def test_offline_agent(capsys):
    pytest.importorskip("d3rlpy", reason="the offline extra is not installed")
    table = load("offline_agent").main(n_steps=30)
    assert "clinicians" in table
    assert "bcq" in table


class Prescriber(BaseHTTPRequestHandler):
    """A server that always prescribes low fluid."""

    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        function = {"name": "prescription", "arguments": '{"iv_fluid": 1, "vasopressor": 0}'}
        call = {"id": "1", "type": "function", "function": function}
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        answer = json.dumps({**body, "choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args):
        """Keeps quiet."""


def test_llm_agent(capsys):
    pytest.importorskip("openai", reason="the llm extra is not installed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Prescriber)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        counts = load("llm_agent").main(f"http://127.0.0.1:{server.server_port}/v1", "m", seed=2)
    finally:
        server.shutdown()
        server.server_close()
    assert counts["decisions"] > 0
    assert (counts["repairs"], counts["fallbacks"]) == (0, 0)
    assert capsys.readouterr().out.count("action 5, reward") == counts["decisions"]
