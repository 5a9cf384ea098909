import json
import threading
import zlib
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from agents import make_agent
from agents.llm import OpenAIBackend
from agents.llm import prompt as prompts
from evaluation.target import agent_probabilities
from sepsis_gym.agent import (
    ConcurrentAgent,
    SampledAgent,
    SimulatingAgent,
    prepare,
    run_episode,
)
from sepsis_gym.envs import SepsisEnv, SepsisReplayEnv
from sepsis_gym.errors import BackendError, ConfigError
from sepsis_gym.features import FEATURE_INDEX

openai = pytest.importorskip("openai", reason="the llm extra is not installed")
httpx = pytest.importorskip("httpx2", reason="openai 3 comes with httpx2")

from scripted_server import (  # noqa: E402  after the checks that it can be imported
    CHOSEN,
    FALLBACK,
    LOCAL,
    PRESCRIBE,
    SIMULATE,
    Server,
    agent_on,
    prose,
    tool_calls,
)


def first_decision(server, toy_model, **settings):
    env = SepsisEnv(toy_model)
    observation, info = env.reset(seed=0)
    agent = agent_on(server, env.preprocessing, **settings)
    prepare(agent, env)
    return agent.act(observation, info), agent


def test_it_simulates_then_prescribes(toy_model):
    server = Server(tool_calls(SIMULATE), tool_calls(PRESCRIBE))
    action, agent = first_decision(server, toy_model)
    assert isinstance(agent, SimulatingAgent)
    assert action == CHOSEN
    assert agent.counts == {
        "decisions": 1,
        "simulations": 1,
        "repairs": 0,
        "fallbacks": 0,
        "requests": 2,
        "prompt_tokens": 180,
        "completion_tokens": 20,
    }
    names = [tool["function"]["name"] for tool in server.requests[0]["tools"]]
    assert names == ["prescription", "simulation"]
    assert all(tool["function"]["strict"] for tool in server.requests[0]["tools"])
    answer = server.requests[1]["messages"][-1]
    assert answer["role"] == "tool"
    candidate = json.loads(answer["content"])["candidates"][0]
    assert (candidate["iv_fluid"], candidate["vasopressor"]) == (1, 0)
    assert "mmHg" in candidate["after"]["meanbp"]


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (tool_calls(("prescription", '{"iv_fluid": 2, "vaso')), "no JSON"),
        (tool_calls(("prescription", {"iv_fluid": 7, "vasopressor": 0})), "got 7"),
        (tool_calls(("prescription", {"iv_fluid": 0, "vasopressor": -1})), "got -1"),
        (tool_calls(("prescription", {"iv_fluid": True, "vasopressor": 0})), "got True"),
        (tool_calls(("prescription", {"iv_fluid": 1})), "iv_fluid and vasopressor"),
        (tool_calls(("prescription", [1, 2])), "JSON object"),
        (tool_calls(("prescription", "[" * 100_000)), "no JSON"),
        (tool_calls(("simulation", {"actions": []})), "1 to 3"),
        (tool_calls(("simulation", {"actions": [PRESCRIBE[1]] * 4})), "1 to 3"),
        (tool_calls(("order_tea", {})), "no tool 'order_tea'"),
        (tool_calls(PRESCRIBE, PRESCRIBE), "you called 2"),
        (prose("I would give some fluid."), "you called 0"),
        (prose(None), "you called 0"),
    ],
)
def test_a_bad_reply_is_answered_counted_and_mended(toy_model, bad, told):
    server = Server(bad, tool_calls(PRESCRIBE))
    action, agent = first_decision(server, toy_model)
    assert action == CHOSEN
    assert (agent.counts["repairs"], agent.counts["fallbacks"]) == (1, 0)
    correction = server.requests[1]["messages"][2:]
    assert told in correction[-1]["content"]
    open_calls = {call["id"] for call in correction[0].get("tool_calls", [])}
    assert {turn.get("tool_call_id") for turn in correction[1:]} == (open_calls or {None})


def test_after_the_last_repair_the_fallback_decides_and_is_counted(toy_model):
    server = Server(prose("no"))
    action, agent = first_decision(server, toy_model, max_repairs=2)
    assert action == FALLBACK
    assert len(server.requests) == 3
    assert (agent.counts["repairs"], agent.counts["fallbacks"]) == (2, 1)


def test_endless_simulation_is_bounded(toy_model):
    server = Server(tool_calls(SIMULATE))
    action, agent = first_decision(server, toy_model, max_simulations=3, max_repairs=2)
    assert action == FALLBACK
    assert len(server.requests) == 3 + 3
    assert agent.counts["simulations"] == 3


def test_with_the_simulator_removed_only_prescription_is_offered(toy_model):
    server = Server(tool_calls(SIMULATE), tool_calls(PRESCRIBE))
    action, agent = first_decision(server, toy_model, simulate=False)
    assert action == CHOSEN
    assert (agent.counts["simulations"], agent.counts["repairs"]) == (0, 1)
    assert [t["function"]["name"] for t in server.requests[0]["tools"]] == ["prescription"]


def test_a_failing_server_is_retried_and_then_an_error(toy_model):
    server = Server(500, 429, tool_calls(PRESCRIBE))
    action, agent = first_decision(server, toy_model)
    assert action == CHOSEN
    assert agent.counts["fallbacks"] == 0
    dead = OpenAIBackend(
        LOCAL,
        "m",
        credentialed=False,
        retries=1,
        transport=httpx.MockTransport(Server(500)),
    )
    agent.backend = dead
    env = SepsisEnv(toy_model)
    observation, info = env.reset(seed=0)
    prepare(agent, env)
    with pytest.raises(BackendError, match="127"):
        agent.act(observation, info)
    assert agent.counts["fallbacks"] == 0


def test_one_decision_is_asked_for_once(toy_model):
    server = Server(tool_calls(PRESCRIBE))
    env = SepsisEnv(toy_model)
    observation, info = env.reset(seed=0)
    agent = agent_on(server, env.preprocessing)
    prepare(agent, env)
    action = agent.act(observation, info)
    probabilities = agent.action_probabilities(observation, info)
    assert probabilities[action] == 1
    assert probabilities.sum() == 1
    assert len(server.requests) == 1


class Sampler(Server):
    """Prescribes by what it is asked and by the seed alone."""

    def answer(self, asked):
        text = asked["messages"][1]["content"] + str(asked["seed"])
        level = zlib.crc32(text.encode()) % 3
        return tool_calls(("prescription", {"iv_fluid": level, "vasopressor": 0}))


def test_action_probabilities_are_shares_of_independent_samples(toy_model):
    server = Sampler()
    env = SepsisEnv(toy_model)
    observation, info = env.reset(seed=0)
    agent = agent_on(server, env.preprocessing, simulate=False, samples=12)
    prepare(agent, env)
    action = agent.act(observation, info)
    probabilities = agent.action_probabilities(observation, info)
    assert len({request["seed"] for request in server.requests}) == 12
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[action] > 0
    assert (probabilities * 12 == np.round(probabilities * 12)).all()
    assert agent.counts["decisions"] == len(agent.transcript) == 12
    assert agent.act(observation, info) == action
    assert isinstance(agent, SampledAgent)
    with pytest.raises(ConfigError, match="samples"):
        agent_on(server, env.preprocessing, samples=0)


def test_sessions_answer_alike_and_count_together(trajectories):
    part = trajectories.select(np.arange(8))
    answers = {}
    for workers in (1, 4):
        agent = agent_on(Sampler(), part.preprocessing, simulate=False, workers=workers)
        assert isinstance(agent, ConcurrentAgent)
        answers[workers] = agent_probabilities("llm", agent, part).probabilities
        assert agent.counts["decisions"] == part.n_decisions.sum()
        assert agent.counts["prompt_tokens"] == 90 * part.n_decisions.sum()
    np.testing.assert_array_equal(answers[1], answers[4])
    assert len(np.unique(answers[1][part.is_decision], axis=0)) == 3


def test_the_fallback_draws_alike_in_every_stay_whatever_the_threads(trajectories):
    part = trajectories.select(np.arange(6))
    answers = {}
    for workers in (1, 3):
        agent = agent_on(Server(prose("no")), part.preprocessing, simulate=False, workers=workers)
        agent.fallback = make_agent("random")
        answers[workers] = agent_probabilities("llm", agent, part).probabilities
        assert agent.counts["fallbacks"] == part.n_decisions.sum()
    np.testing.assert_array_equal(answers[1], answers[3])
    assert len(np.unique(answers[1][part.is_decision], axis=0)) > 5


def test_a_simulating_agent_without_an_environment_says_so(toy_model):
    env = SepsisEnv(toy_model)
    observation, info = env.reset(seed=0)
    agent = agent_on(Server(tool_calls(PRESCRIBE)), env.preprocessing)
    with pytest.raises(ConfigError, match="prepare"):
        agent.act(observation, info)


@pytest.mark.parametrize(
    ("url", "hosts", "refused"),
    [
        ("https://api.example.com/v1", (), True),
        ("http://10.0.0.7:8000/v1", (), True),
        ("http://127.0.0.1.example.com/v1", (), True),
        ("http://10.0.0.7:8000/v1", ("10.0.0.7",), False),
        ("http://localhost:8000/v1", (), False),
        ("http://[::1]:8000/v1", (), False),
    ],
)
def test_credentialed_rows_stay_on_this_machine_unless_allowed(url, hosts, refused):
    OpenAIBackend(url, "m", credentialed=False)
    if refused:
        with pytest.raises(ConfigError, match="data use agreement"):
            OpenAIBackend(url, "m", credentialed=True, allowed_hosts=hosts)
    else:
        OpenAIBackend(url, "m", credentialed=True, allowed_hosts=hosts)


def scored(tokens):
    """A server that answers with these first tokens and their log-probabilities."""

    def answer(request):
        asked = json.loads(request.content)
        assert (asked["logprobs"], asked["top_logprobs"], asked["max_tokens"]) == (True, 20, 1)
        assert "tools" not in asked
        entry = {"token": "x", "logprob": 0.0, "top_logprobs": tokens}
        content = {"content": [entry]} if tokens else None
        message = prose("yes")
        choice = {"index": 0, "finish_reason": "length", "message": message, "logprobs": content}
        body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        return httpx.Response(200, json={**body, "choices": [choice]})

    return OpenAIBackend(LOCAL, "m", credentialed=False, transport=httpx.MockTransport(answer))


def test_token_probabilities_are_read_off_the_first_token():
    given = [{"token": "yes", "logprob": np.log(0.7)}, {"token": "no", "logprob": np.log(0.2)}]
    told = scored(given).next_token([{"role": "user", "content": "?"}])
    assert told == {"yes": pytest.approx(0.7), "no": pytest.approx(0.2)}
    with pytest.raises(BackendError, match="draw samples"):
        scored([]).next_token([{"role": "user", "content": "?"}])


@pytest.mark.parametrize(
    "body",
    [
        "<html>a proxy speaks</html>",
        '{"choices": [',
        "[]",
        "{}",
        '{"choices": null}',
        '{"choices": []}',
        '{"choices": [null]}',
        '{"choices": [{}]}',
        '{"choices": [{"message": "hello"}]}',
        '{"choices": [{"message": {"content": ["hello"]}}]}',
        '{"choices": [{"message": {"content": "", "tool_calls": [{"id": "1"}]}}]}',
        '{"choices": [{"message": {"content": "x"}, "logprobs": "x"}], "usage": ["many"]}',
    ],
)
def test_what_is_no_chat_completion_is_told_as_the_servers_fault(body):
    def answer(_):
        return httpx.Response(200, headers={"content-type": "application/json"}, text=body)

    backend = OpenAIBackend(
        LOCAL, "m", credentialed=False, retries=0, transport=httpx.MockTransport(answer)
    )
    with pytest.raises(BackendError, match=r"^m "):
        backend.complete([{"role": "user", "content": "?"}], [])
    with pytest.raises(BackendError, match=r"^m "):
        backend.next_token([{"role": "user", "content": "?"}])


def test_arguments_that_come_as_an_object_are_read_as_its_json():
    function = {"name": "prescription", "arguments": {"iv_fluid": 1, "vasopressor": 0}}
    message = {"content": None, "tool_calls": [{"id": "1", "function": function}]}

    def answer(_):
        return httpx.Response(200, json={"choices": [{"message": message}], "usage": None})

    transport = httpx.MockTransport(answer)
    backend = OpenAIBackend(LOCAL, "m", credentialed=False, retries=0, transport=transport)
    reply = backend.complete([{"role": "user", "content": "?"}], [])
    assert json.loads(reply.tool_calls[0].arguments) == function["arguments"]
    assert (reply.prompt_tokens, reply.completion_tokens) == (0, 0)


def test_credentialed_rows_follow_no_redirect():
    asked = []

    def elsewhere(request):
        asked.append(request.url.host)
        return httpx.Response(307, headers={"location": "http://api.example.com/v1"})

    backend = OpenAIBackend(
        LOCAL,
        "m",
        credentialed=True,
        retries=0,
        transport=httpx.MockTransport(elsewhere),
    )
    with pytest.raises(BackendError):
        backend.complete([{"role": "user", "content": "a patient"}], [])
    assert asked == ["127.0.0.1"]


class _CountingHandler(BaseHTTPRequestHandler):
    def do_POST(self):
        self.server.seen.append(self.rfile.read(int(self.headers["content-length"])))
        self.send_error(400)

    def log_message(self, *_):
        pass


def test_credentialed_rows_pass_no_proxy_of_the_environment(monkeypatch):
    with HTTPServer(("127.0.0.1", 0), _CountingHandler) as proxy:
        proxy.seen = []
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        for name in ("NO_PROXY", "no_proxy", "HTTP_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_port}")
        for credentialed in (True, False):
            backend = OpenAIBackend(LOCAL, "m", credentialed=credentialed, retries=0)
            with pytest.raises(BackendError):
                backend.complete([{"role": "user", "content": "a patient"}], [])
            assert len(proxy.seen) == (not credentialed)
        proxy.shutdown()


def test_large_values_are_written_out():
    assert [prompts.rounded(x) for x in (0.37, 7.36, 12000, -4.25)] == [
        "0.37",
        "7.36",
        "12000",
        "-4.25",
    ]


def test_a_stay_from_end_to_end_in_both_environments(trajectories, toy_model):
    simulated, replayed = SepsisEnv(toy_model), SepsisReplayEnv(trajectories, model=toy_model)
    for env in (simulated, replayed):
        server = Server(*[tool_calls(SIMULATE), tool_calls(PRESCRIBE)] * 18, tool_calls(PRESCRIBE))
        agent = agent_on(server, env.preprocessing)
        total = run_episode(env, agent, seed=1)
        assert np.isfinite(total)
        steps = env._state.patients.step[0]
        assert agent.counts["decisions"] == steps == len(agent.transcript)
        assert agent.counts["fallbacks"] == 0
        # history stays bounded: at most six lines of earlier steps
        last = agent.transcript[-1][1]["content"]
        assert last.count("- hour") == min(steps - 1, 6)
        assert f"({steps - 1} earlier steps)" in last
    assert set(replayed.chosen) == {CHOSEN}


def test_the_prompt_tells_known_values_in_clinical_units(trajectories):
    env = SepsisReplayEnv(trajectories)
    _, info = env.reset(options={"stay_id": 1})
    text = prompts.patient_message(info, prompts.Past())
    for name, index in FEATURE_INDEX.items():
        assert (f"- {name} " in text) == bool(info["known"][index])
    assert f"SOFA {info['sofa']}" in text
    system = prompts.system_prompt(trajectories.preprocessing, simulate=True)
    dose = trajectories.preprocessing.action_bins.fluid_doses[4]
    assert f"(about {dose:.0f})" in system
    assert "4 over" in system


def test_the_prompt_reads_like_a_chart(toy_model):
    _, info = SepsisEnv(toy_model).reset(seed=0)
    info |= {"state": np.round(info["state"], 1), "known": np.zeros(39, bool)}
    info["known"][[FEATURE_INDEX["meanbp"], FEATURE_INDEX["lactate"]]] = True
    info["state"][FEATURE_INDEX["meanbp"]], info["state"][FEATURE_INDEX["lactate"]] = 61, 3.2
    info["age_hours"][FEATURE_INDEX["lactate"]] = 4
    assert prompts.patient_message(info, prompts.Past()) == (
        "Hour 4 in intensive care. 65-year-old man, Charlson index 5. SOFA "
        f"{info['sofa']}. Breathing on their own.\n"
        "Running: fluid 0 mL (level 0), norepinephrine equivalent 0.00 ug/kg/min (level 0)\n"
        "Now (hours since measured, if not in this step):\n"
        "- meanbp 61 mmHg\n"
        "- lactate 3.2 mmol/L (4 h ago)\n"
        "In short: MAP 61 mmHg, lactate 3.2 mmol/L (4 h ago), FiO2 not known, SOFA "
        f"{info['sofa']}; running are fluid level 0 and vasopressor level 0."
    )
