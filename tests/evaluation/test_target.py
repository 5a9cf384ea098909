import threading
import time

import numpy as np
import pytest

from evaluation.estimators import (
    bootstrap,
    resample_index,
    weighted_importance_sampling,
)
from evaluation.intervals import percentile_interval
from evaluation.target import agent_probabilities
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import BatchAgent, ConcurrentAgent


class StayAgent:
    """Stateful: its answer depends on all it has seen of the stay."""

    probability_samples = 7

    def reset(self):
        self.seen = np.zeros(107)

    def act(self, observation, info):
        return int(self.action_probabilities(observation, info).argmax())

    def action_probabilities(self, observation, info):
        self.seen = self.seen + observation
        weight = np.exp(np.sin(self.seen[:N_ACTIONS]))
        return weight / weight.sum()


class Sessions(StayAgent):
    """The same, waiting for its server; fails in one stay if told to."""

    def __init__(self, workers=1, broken=None):
        self.workers, self.broken = workers, broken
        self.at_once, self.begun, self.lock = [], [], threading.Lock()
        self.running = 0

    def session(self):
        outer = self

        class Session(StayAgent):
            def action_probabilities(self, observation, info):
                with outer.lock:
                    outer.running += 1
                    outer.at_once.append(outer.running)
                    outer.begun.append(info["stay_id"])
                time.sleep(0.001)
                with outer.lock:
                    outer.running -= 1
                if info["stay_id"] == outer.broken:
                    return np.zeros(N_ACTIONS)
                return super().action_probabilities(observation, info)

        return Session()


def test_walked_answers_lie_in_their_rows_whatever_the_number_of_threads(trajectories):
    plain = agent_probabilities("plain", StayAgent(), trajectories)
    assert plain.samples == 7
    final = ~trajectories.is_decision
    np.testing.assert_array_equal(plain.probabilities[final], 1 / N_ACTIONS)
    assert len(np.unique(plain.probabilities[~final], axis=0)) == (~final).sum()
    for workers in (1, 8):
        agent = Sessions(workers)
        assert isinstance(agent, ConcurrentAgent)
        assert not isinstance(agent, BatchAgent)
        walked = agent_probabilities("sessions", agent, trajectories)
        np.testing.assert_array_equal(walked.probabilities, plain.probabilities)
        assert 1 <= max(agent.at_once) <= workers
    assert max(agent.at_once) > 1


def test_after_an_error_no_further_stay_is_begun(trajectories):
    agent = Sessions(workers=2, broken=trajectories.stays.stay_id[0])
    with pytest.raises(ValueError, match="agent odd, stay 1, step 0"):
        agent_probabilities("odd", agent, trajectories)
    assert len(set(agent.begun)) < len(trajectories) / 2


BEHAVIOR = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.3, 0.4, 0.3]])
TARGET = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
PAY = np.array([[1.0, 0.0, -1.0], [0.5, -1.0, 2.0], [0.0, 1.0, -0.5]])


def coverage(samples, *, shared, runs=150, n=300, steps=4):
    """Share of 95% intervals that hold the value of the target, and their mean width.

    States are drawn afresh at each step, so that the value is known. The target's probabilities
    are exact, sampled in each state visited, or sampled once for all stays.
    """
    rng = np.random.default_rng(0)
    truth = steps * float((TARGET * PAY).sum(1).mean())
    mask = np.ones((n, steps), bool)
    inside, width = [], []
    for _ in range(runs):
        state = rng.integers(3, size=(n, steps))
        action = (rng.random((n, steps, 1)) > BEHAVIOR[state].cumsum(-1)).sum(-1).clip(max=2)
        taken = TARGET[state, action]
        if samples and shared:
            taken = (rng.multinomial(samples, TARGET) / samples)[state, action]
        elif samples:
            taken = rng.binomial(samples, taken) / samples
        values = bootstrap(
            weighted_importance_sampling,
            PAY[state, action],
            taken / BEHAVIOR[state, action],
            mask,
            gamma=1.0,
            index=resample_index(n, 300, rng),
        )
        low, high, _ = percentile_interval(values, 0.95)
        inside.append(low <= truth <= high)
        width.append(high - low)
    return np.mean(inside), np.mean(width)


def test_resampling_stays_carries_the_error_of_sampled_probabilities():
    exact, exact_width = coverage(None, shared=False)
    sampled, width = coverage(10, shared=False)
    assert 0.9 <= exact <= 0.98
    assert 0.9 <= sampled <= 0.98
    assert width > 1.1 * exact_width
    # Were the answers not each state's own, the interval would not know of their error.
    shared, _ = coverage(10, shared=True)
    assert shared < 0.85
