import numpy as np
import pytest

from agents import make_agent
from agents.llm import LLMDigitAgent
from agents.llm import prompt as prompts
from agents.llm.backend import shares_of
from evaluation.target import agent_probabilities
from sepsis_gym.agent import ConcurrentAgent, prepare
from sepsis_gym.envs import SepsisReplayEnv
from sepsis_gym.errors import BackendError


class Levels:
    """Prefers a vasopressor level equal to the fluid level it is told."""

    def __init__(self, bad=None):
        self.asked, self.bad = [], bad

    def next_token(self, messages):
        self.asked.append(messages)
        if self.bad == len(self.asked):
            return {"I": 0.9, "2": 0.1}
        if len(messages) == 2:
            return {"1": 0.6, " 3": 0.2, "the": 0.2}
        return (
            {messages[2]["content"]: 0.9, "0": 0.1} if messages[2]["content"] != "0" else {"0": 1}
        )


def first_state(trajectories, backend):
    env = SepsisReplayEnv(trajectories)
    agent = LLMDigitAgent(backend, env.preprocessing, fallback=make_agent("no_treatment"))
    shown = env.reset(seed=0)
    prepare(agent, env)
    return agent, env, shown


def test_six_answers_give_all_probabilities(trajectories):
    agent, _, (observation, info) = first_state(trajectories, backend := Levels())
    grid = agent.action_probabilities(observation, info).reshape(5, 5)
    expected = np.zeros((5, 5))
    expected[1, [0, 1]] = 0.75 * np.array([0.1, 0.9])
    expected[3, [0, 3]] = 0.25 * np.array([0.1, 0.9])
    np.testing.assert_allclose(grid, expected)
    assert len(backend.asked) == 6
    assert expected.ravel()[[agent.act(observation, info) for _ in range(20)]].min() > 0
    assert len(backend.asked) == 6  # the state is asked about once
    assert (agent.counts["decisions"], agent.counts["fallbacks"]) == (1, 0)
    assert agent.probability_samples is None


def test_what_is_asked(trajectories):
    agent, env, (observation, info) = first_state(trajectories, backend := Levels())
    agent.action_probabilities(observation, info)
    past = prompts.Past()
    past.add(info)
    observation, _, _, _, info = env.step(0)
    agent.action_probabilities(observation, info)
    fluid, *vasopressor = backend.asked[6:]
    assert fluid[1]["content"].startswith(prompts.patient_message(info, past))
    assert "one digit" in fluid[0]["content"]
    assert "prescription" not in fluid[0]["content"]
    assert [messages[2]["content"] for messages in vasopressor] == list("01234")
    assert all(messages[:2] == fluid for messages in vasopressor)


@pytest.mark.parametrize("bad", [1, 4])
def test_an_invalid_answer_leaves_the_state_to_the_fallback(trajectories, bad):
    agent, _, (observation, info) = first_state(trajectories, Levels(bad))
    assert agent.action_probabilities(observation, info)[0] == 1
    assert (agent.counts["decisions"], agent.counts["fallbacks"]) == (1, 1)


def test_an_unreachable_server_leaves_no_probabilities_of_another_state(trajectories):
    agent, env, (observation, info) = first_state(trajectories, Levels())
    agent.action_probabilities(observation, info)
    observation, _, _, _, info = env.step(0)

    class Dead:
        def next_token(self, messages):
            raise BackendError("gone")

    agent.backend = Dead()
    for _ in range(2):
        with pytest.raises(BackendError):
            agent.action_probabilities(observation, info)


def test_stays_are_walked_side_by_side(trajectories):
    part = trajectories.select(np.arange(6))
    backend = Levels()
    agent = LLMDigitAgent(
        backend, part.preprocessing, fallback=make_agent("no_treatment"), workers=3
    )
    assert isinstance(agent, ConcurrentAgent)
    told = agent_probabilities("digits", agent, part)
    assert told.samples is None
    assert len(backend.asked) == 6 * part.n_decisions.sum()
    np.testing.assert_allclose(told.probabilities[part.is_decision][:, 6], 0.75 * 0.9)


def test_tokens_stand_for_answers_whatever_their_case_and_punctuation():
    tokens = {" Yes": 0.3, "**yes": 0.1, "NO.": 0.4, "none": 0.2}
    np.testing.assert_allclose(shares_of(("yes", "no"), tokens), [0.5, 0.5])
    assert shares_of(("yes", "no"), {"none": 0.6, "yes": 0.4}) is None
