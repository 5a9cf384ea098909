"""A real vLLM server, and the same model in this process: both must say and do the same."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chi2

from agents import make_agent
from agents.llm import LLMAgent, LLMDigitAgent, OpenAIBackend, Sampling
from agents.llm.serve import serving
from evaluation.target import agent_probabilities
from sepsis_gym.agent import prepare
from sepsis_gym.envs import SepsisReplayEnv
from sepsis_gym.trajectories import Trajectories
from world_models import load_world_model

pytestmark = pytest.mark.llm_server
COHORT = Path(__file__).parents[2] / "sepsis_gym" / "sample_cohort"
OPTIONS = ("--dtype", "float32", "--max-model-len", "4096", "--enforce-eager")
FALLBACK = 24
MAX_TOKENS = 160


@pytest.fixture(scope="module")
def model() -> str:
    folder = os.environ.get("SEPSIS_GYM_TINY_MODEL")
    if not folder:
        pytest.skip("SEPSIS_GYM_TINY_MODEL is not set: no model to serve; see tests/with_vllm.sh")
    return folder


@pytest.fixture(scope="module")
def base_url(model) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = os.environ.get("SEPSIS_GYM_VLLM", "vllm")
    with serving(model, port=port, options=OPTIONS, command=command) as (url, _):
        yield url


@pytest.fixture(scope="module")
def log() -> Trajectories:
    stays = Trajectories.load(COHORT)
    return stays.select(np.arange(len(stays) - 64, len(stays)))


@pytest.fixture(scope="module")
def world_model():
    return load_world_model("default")


def agent_on(backend, log, **settings):
    fallback = make_agent("fixed_dose", action=FALLBACK)
    return LLMAgent(backend, log.preprocessing, fallback=fallback, **settings)


def reader_on(backend, log, **settings):
    fallback = make_agent("fixed_dose", action=FALLBACK)
    return LLMDigitAgent(backend, log.preprocessing, fallback=fallback, mode="direct", **settings)


def served(base_url, model, **sampling):
    settings = Sampling(max_tokens=MAX_TOKENS, **sampling)
    return OpenAIBackend(base_url, model, credentialed=True, sampling=settings)


def share_of_valid_calls(counts):
    return 1 - counts["repairs"] / counts["requests"] - counts["fallbacks"] / counts["requests"]


def test_64_stays_are_simulated_and_treated_by_valid_calls_and_alike_in_this_process(
    base_url, model, log, world_model
):
    transformers = pytest.importorskip("transformers", reason="the local extra is not installed")
    transformers.utils.logging.disable_progress_bar()
    from agents.llm import TransformersBackend

    told, exact, few = {}, {}, log.select(np.arange(3))
    local = TransformersBackend(model, sampling=Sampling(max_tokens=MAX_TOKENS), device="cpu")
    for name, backend in (("vllm", served(base_url, model)), ("transformers", local)):
        agent = agent_on(backend, log, workers=16)
        answers = agent_probabilities(name, agent, log, world_model).probabilities[log.is_decision]
        print(name, agent.counts)
        assert agent.counts["decisions"] == log.n_decisions.sum()
        assert agent.counts["simulations"] > agent.counts["decisions"] / 2
        assert share_of_valid_calls(agent.counts) >= 0.99
        assert set(answers.max(1)) == {1.0}
        told[name] = answers.argmax(1)
        reader = reader_on(backend, few, workers=3)
        exact[name] = agent_probabilities(name, reader, few).probabilities[few.is_decision]
        assert reader.counts["fallbacks"] == 0
    same = (told["vllm"] == told["transformers"]).mean()
    print(f"{len(np.unique(told['vllm']))} actions, {same:.2%} the same")
    assert same == 1
    # the choice is often the same; what it is made from is not
    print(f"probabilities differ by {abs(exact['vllm'] - exact['transformers']).max():.5f} at most")
    np.testing.assert_allclose(exact["vllm"], exact["transformers"], atol=1e-4)
    assert np.ptp(exact["vllm"], axis=0).max() > 20 * 1e-4


def test_probabilities_of_tokens_are_those_of_samples(base_url, model, log):
    n = 200
    env = SepsisReplayEnv(log)
    for stay in log.stays.stay_id[:2].tolist():
        shown = env.reset(options={"stay_id": stay})
        reader = reader_on(served(base_url, model), log)
        drawn = agent_on(served(base_url, model, temperature=1.0), log, simulate=False, samples=n)
        for agent in (reader, drawn):
            prepare(agent, env)
        exact, shares = (agent.action_probabilities(*shown) for agent in (reader, drawn))
        assert reader.counts["fallbacks"] == 0
        assert drawn.counts["fallbacks"] + drawn.counts["repairs"] <= 0.05 * n
        # chi-square of the cells that can be expected to be met, all others as one
        often = exact * n >= 5
        expected = np.append(exact[often], exact[~often].sum()) * n
        observed = np.append(shares[often], shares[~often].sum()) * n
        kept = expected > 0
        distance = ((observed - expected)[kept] ** 2 / expected[kept]).sum()
        print(f"{kept.sum()} cells, chi-square {distance:.1f}")
        assert kept.sum() > 1
        assert distance < chi2.ppf(0.999, kept.sum() - 1)
