"""What can go wrong with a served model: nothing of it may become "no treatment" in silence."""

import json
import threading
import time
import zlib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from agents import make_agent
from agents.llm import LLMAgent, OpenAIBackend
from evaluation.answer_store import AnswerStore
from evaluation.target import agent_probabilities
from sepsis_gym.errors import BackendError

httpx = pytest.importorskip("httpx2", reason="openai 3 comes with httpx2")

from scripted_server import (  # noqa: E402  after the check that it can be imported
    FALLBACK,
    LOCAL,
    PRESCRIBE,
    Server,
    agent_on,
    prose,
    tool_calls,
)

INVALID = (
    tool_calls(("prescription", '{"iv_fluid": 2, "vaso')) | {"cut": "length"},
    tool_calls(PRESCRIBE, PRESCRIBE),
    prose("I would give some fluid.") | {"cut": "length"},
    tool_calls(("prescription", {"iv_fluid": 7, "vasopressor": 0})),
    tool_calls(("prescription", {"iv_fluid": 0, "vasopressor": -1})),
    prose(""),
    {"role": "assistant", "content": None, "refusal": "I cannot give medical advice."},
    500,
    429,
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
)


def by_state(asked):
    """A valid answer that depends on the state alone."""
    level = zlib.crc32(asked["messages"][1]["content"].encode()) % 5
    return tool_calls(("prescription", {"iv_fluid": level, "vasopressor": 1}))


class Stormy(Server):
    """Goes wrong at every second request of a dialogue state, each time in another way."""

    def __init__(self):
        super().__init__(None)
        self.faults, self.seen, self._lock = list(INVALID), {}, threading.Lock()

    def answer(self, asked):
        state = asked["messages"][1]["content"]
        with self._lock:
            turn = self.seen[state] = self.seen.get(state, -1) + 1
        if turn == 0:
            return self.faults[zlib.crc32(state.encode()) % len(self.faults)]
        return by_state(asked)


class Calm(Server):
    def answer(self, asked):
        return by_state(asked)


def answers(server, log, workers=4, **settings):
    agent = agent_on(server, log.preprocessing, simulate=False, workers=workers)
    told = agent_probabilities("llm", agent, log, **settings).probabilities
    return told, agent.counts


def test_a_storm_of_faults_changes_no_decision(trajectories):
    log = trajectories.select(np.arange(12))
    calm, _ = answers(Calm(None), log)
    stormy, counts = answers(server := Stormy(), log)
    np.testing.assert_array_equal(stormy, calm)
    assert counts["fallbacks"] == 0
    assert 0 < counts["repairs"] < counts["decisions"]  # the rest were faults of the transport
    assert len(server.seen) == counts["decisions"]


def test_what_stays_invalid_goes_to_the_fallback_and_is_counted(trajectories):
    log = trajectories.select(np.arange(3))
    for fault in INVALID[:7]:
        told, counts = answers(Server(fault), log)
        assert (told[log.is_decision][:, FALLBACK] == 1).all()
        assert counts["fallbacks"] == counts["decisions"] == log.n_decisions.sum()
        assert counts["repairs"] == 2 * counts["decisions"]
        assert counts["requests"] == 3 * counts["decisions"]


def test_a_reply_that_was_cut_off_is_told_so(trajectories):
    server = Server(INVALID[2], tool_calls(PRESCRIBE))
    answers(server, trajectories.select(np.arange(1)), workers=1)
    assert "cut off" in server.requests[1]["messages"][-1]["content"]


def test_unreadable_arguments_are_sent_back_as_json(trajectories):
    server = Server(INVALID[0], tool_calls(PRESCRIBE))
    answers(server, trajectories.select(np.arange(1)), workers=1)
    again = server.requests[1]["messages"][2]["tool_calls"][0]["function"]["arguments"]
    assert json.loads(again)["unreadable"].startswith('{"iv_fluid": 2')


class Gone(Server):
    """Answers until it is killed; the connections are refused from then on."""

    def __init__(self, after):
        super().__init__(None)
        self.after = after

    def answer(self, asked):
        refused = len(self.requests) > self.after
        return httpx.ConnectError("refused") if refused else by_state(asked)


def impatient(server, log, workers=1):
    transport = httpx.MockTransport(server)
    backend = OpenAIBackend(LOCAL, "m", credentialed=False, retries=0, transport=transport)
    fallback = make_agent("fixed_dose", action=FALLBACK)
    return LLMAgent(backend, log.preprocessing, fallback=fallback, simulate=False, workers=workers)


@pytest.mark.parametrize("workers", [1, 4])
def test_a_server_that_is_lost_leaves_whole_stays_and_a_later_run_the_rest(
    trajectories, tmp_path, workers
):
    log, file = trajectories.select(np.arange(20)), tmp_path / "answers.jsonl"
    expected, counts = answers(Calm(None), log)
    half = int(log.n_decisions[:10].sum())
    agent = impatient(gone := Gone(after=half), log, workers)
    with pytest.raises(BackendError, match="--retry-failed"):
        agent_probabilities("llm", agent, log, kept=AnswerStore(file, {}))
    first = AnswerStore(file, {})
    assert 0 < len(first.answered) < len(log)
    assert 0 < len(first.failed) <= 4 * workers
    assert len(gone.requests) < half + 6 * workers  # it was given up, not asked for every stay
    agent = impatient(Calm(None), log, workers)
    with pytest.raises(BackendError, match="no reply"):  # what failed stays failed
        agent_probabilities("llm", agent, log, kept=first)
    agent = impatient(calm := Calm(None), log, workers)
    again = AnswerStore(file, {}, retry_failed=True)
    told = agent_probabilities("llm", agent, log, kept=again).probabilities
    np.testing.assert_array_equal(told, expected)
    assert agent.counts == counts  # those of the stays kept as well
    assert len(calm.requests) < counts["decisions"]


class _Slow(BaseHTTPRequestHandler):
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked += 1
        if self.server.asked % 3 == 1:
            time.sleep(0.5)
        choice = {"index": 0, "finish_reason": "stop", "message": by_state(asked)}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        content = json.dumps({**body, "choices": [choice]}).encode()
        try:
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except BrokenPipeError:
            pass

    def log_message(self, *_):
        pass


def served(port=0):
    server = ThreadingHTTPServer(("127.0.0.1", port), _Slow)
    server.asked = 0
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def test_slow_replies_and_a_server_that_comes_back_are_waited_for(trajectories):
    log = trajectories.select(np.arange(3))
    expected, _ = answers(Calm(None), log)
    server = served()
    port = server.server_port
    backend = OpenAIBackend(
        f"http://127.0.0.1:{port}/v1", "m", credentialed=True, timeout_s=0.25, retries=8
    )
    agent = LLMAgent(
        backend,
        log.preprocessing,
        fallback=make_agent("fixed_dose", action=FALLBACK),
        simulate=False,
        workers=2,
    )
    told = {}
    asking = threading.Thread(
        target=lambda: told.update(got=agent_probabilities("llm", agent, log).probabilities)
    )
    asking.start()
    while server.asked < 4:
        time.sleep(0.01)
    server.shutdown()  # killed in the middle
    server.server_close()
    time.sleep(0.7)
    back = served(port)
    asking.join(60)
    back.shutdown()
    back.server_close()
    np.testing.assert_array_equal(told["got"], expected)
    assert agent.counts["fallbacks"] == 0
