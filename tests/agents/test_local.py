"""A model in this process: a random one, made on the spot."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.stats import chi2

from agents import make_agent
from agents.llm import LLMAgent, Sampling, TransformersBackend
from agents.llm import prompt as prompts
from agents.llm.dialogue import render
from agents.llm.local import read_tool_calls
from evaluation.target import agent_probabilities
from sepsis_gym.errors import BackendError, ConfigError

torch = pytest.importorskip("torch", reason="the torch extra is not installed")
transformers = pytest.importorskip("transformers", reason="the local extra is not installed")

TOOLS = prompts.tools(simulate=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    from agents.curriculum.tiny import make_model, make_tokenizer

    torch.manual_seed(0)
    tokenizer = make_tokenizer(["fluid and vasopressor\n" * 5, json.dumps(TOOLS)])
    model = make_model(tokenizer)
    with torch.no_grad():
        model.model.norm.weight.normal_(std=10)  # or it would repeat its last token, if unsurely
    out = tmp_path_factory.mktemp("random")
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return str(out)


def ask(text):
    return [{"role": "system", "content": "task"}, {"role": "user", "content": text}]


def opened(folder, **sampling):
    settings = Sampling(**{"max_tokens": 12, **sampling})
    return TransformersBackend(folder, sampling=settings, device="cpu", dtype="float32")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_reply_does_not_depend_on_what_else_is_asked(folder, temperature):
    backend = opened(folder, temperature=temperature)
    texts = [f"patient {k} " * (k + 1) for k in range(9)]
    alone = [backend.complete(ask(text), TOOLS, draw=3) for text in texts]
    with ThreadPoolExecutor(9) as pool:
        together = list(pool.map(lambda text: backend.complete(ask(text), TOOLS, draw=3), texts))
    assert together == alone
    assert len({reply.content for reply in alone}) > 1
    other = [backend.complete(ask(text), TOOLS, draw=4) for text in texts]
    assert (other == alone) == (temperature == 0)


def test_a_reply_is_what_the_model_generates(folder):
    backend = opened(folder)
    texts = [f"patient {k} " * (k + 1) for k in range(20)]
    prompts = [render(backend.tokenizer, ask(text), TOOLS) for text in texts]
    tokens = [backend.tokenizer(prompt)["input_ids"] for prompt in prompts]
    assert len({len(each) for each in tokens}) > backend.batch_size
    order = np.random.default_rng(0).permutation(len(tokens))
    replies = backend.replies([tokens[at] for at in order], [0] * len(order))
    assert len({reply.tokens for reply in replies}) > 1
    for at, reply in zip(order, replies, strict=True):
        with torch.inference_mode():
            alone = backend.network.generate(torch.tensor([tokens[at]]), max_new_tokens=12)
        assert reply.prompt_tokens == len(tokens[at])
        assert list(reply.tokens) == alone[0, len(tokens[at]) :].tolist()


def test_what_waits_is_answered_in_few_batches(folder):
    backend = opened(folder)
    batches, generate = [], backend._generate

    def watched(batch):
        batches.append(len(batch))
        return generate(batch)

    backend._generate = watched
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda k: backend.complete(ask(str(k)), ()), range(48)))
    assert sum(batches) == 48
    assert max(batches) > 1
    assert max(batches) <= backend.batch_size


def test_draws_follow_the_probabilities_of_the_tokens(folder):
    backend, n = opened(folder, temperature=1.0, max_tokens=1), 400
    told = backend.next_token(ask("?"), TOOLS)
    assert 0 < sum(told.values()) <= 1 + 1e-6
    drawn = [backend.complete(ask("?"), TOOLS, draw=k).content for k in range(n)]
    often = {t: p for t, p in told.items() if p * n >= 5 and t.strip() == t and "\ufffd" not in t}
    assert len(often) > 1
    expected = np.array([*often.values(), 1 - sum(often.values())]) * n
    observed = [drawn.count(token) for token in often]
    observed = np.array([*observed, n - sum(observed)])
    assert ((observed - expected) ** 2 / expected).sum() < chi2.ppf(0.999, len(often))


def test_an_answer_goes_on_from_its_prefix(folder):
    backend = opened(folder)
    first = backend.complete(ask("?"), TOOLS)
    rendered = render(backend.tokenizer, ask("?"), TOOLS, prefix=prompts.CALL_HEAD)
    assert rendered.endswith(prompts.CALL_HEAD)
    assert rendered.startswith(render(backend.tokenizer, ask("?"), TOOLS))
    inputs = backend.tokenizer(rendered, return_tensors="pt")
    with torch.inference_mode():
        logits = backend.network(**inputs).logits[0, -1]
    best = int(logits.argmax())
    told = backend.next_token(ask("?"), TOOLS, prefix=prompts.CALL_HEAD)
    assert max(told, key=told.__getitem__) == backend.tokenizer.decode([best])
    assert max(told.values()) == pytest.approx(float(logits.softmax(-1)[best]), abs=1e-5)
    assert first.prompt_tokens < inputs["input_ids"].shape[1]


@pytest.mark.parametrize(
    ("text", "content", "calls"),
    [
        (
            '<tool_call>\n{"name": "a", "arguments": {"x": 1}}\n</tool_call>',
            "",
            [("a", '{"x": 1}')],
        ),
        ('So:\n<tool_call>{"name": "a", "arguments": {}}', "So:", [("a", "{}")]),
        (
            '<tool_call>{"name": "a", "arguments": {"x"',
            '<tool_call>{"name": "a", "arguments": {"x"',
            [],
        ),
        ("<tool_call>\n[1]\n</tool_call>", "<tool_call>\n[1]\n</tool_call>", []),
        ("plain", "plain", []),
        ('<tool_call>{"name": "a", "arguments": 1}</tool_call>' * 2, "", [("a", "1")] * 2),
    ],
)
def test_tool_calls_are_read_as_vllm_reads_them(text, content, calls):
    told, found = read_tool_calls(text)
    assert told == content
    assert [(call.name, call.arguments) for call in found] == calls


def test_noise_is_repaired_and_then_left_to_the_fallback(folder, trajectories):
    log = trajectories.select(np.arange(2))
    fallback = make_agent("fixed_dose", action=24)
    agent = LLMAgent(
        opened(folder), log.preprocessing, fallback=fallback, simulate=False, workers=2
    )
    told = agent_probabilities("local", agent, log).probabilities
    assert (told[log.is_decision][:, 24] == 1).all()
    assert agent.counts["fallbacks"] == agent.counts["decisions"] == log.n_decisions.sum()
    assert agent.counts["completion_tokens"] > 0


@pytest.mark.parametrize(
    ("raised", "told"),
    [(RuntimeError("out of memory"), BackendError), (ValueError("too long"), ValueError)],
)
def test_what_goes_wrong_is_told_to_each_that_waits(folder, tmp_path, raised, told):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        TransformersBackend(str(tmp_path / "nothing"))
    backend = opened(folder)

    def fail(**_):
        raise raised

    backend.network.generate = fail
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(backend.complete, ask(str(k)), ()) for k in range(4)]
    for each in asked:
        with pytest.raises(told, match=str(raised)):
            each.result()
