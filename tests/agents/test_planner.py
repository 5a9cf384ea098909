"""Planning in a world model whose best action is known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from agents import load_agent, make_agent, save_agent
from agents.guideline import GuidelineAgent
from agents.planner import GreedyAgent, PlanningAgent
from sepsis_gym.actions import N_ACTIONS, decode_action
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import encode_observation


class Preferring:
    """A world model in which one dose of norepinephrine is best and the others cost 90-day risk."""

    def __init__(self, toy, best, doubted=None):
        self.toy, self.preprocessing = toy, toy.preprocessing
        self.best, self.doubted = best, doubted

    def simulate(self, patients, fluid_ml, norepinephrine_equivalent):
        bins = self.preprocessing.action_bins
        action = bins.action(fluid_ml, norepinephrine_equivalent)
        one = self.toy.simulate(patients.take(np.zeros(1, np.int64)), fluid_ml[:1], fluid_ml[:1])
        k = len(fluid_ml)
        nobody = np.zeros(k, np.float32)
        return replace(
            one,
            fluid_ml=fluid_ml,
            norepinephrine_equivalent=norepinephrine_equivalent,
            values=patients.values,
            ventilated=nobody,
            sofa=patients.sofa(self.preprocessing),
            died=nobody,
            discharged=nobody,
            mortality_90d=np.where(action == self.best, 0.1, 0.4).astype(np.float32),
            epistemic=(action == self.doubted).astype(np.float32),
        )


class PreferringTwice(Preferring):
    """A world model in which only the best dose given twice running helps."""

    def simulate(self, patients, fluid_ml, norepinephrine_equivalent):
        told = super().simulate(patients, fluid_ml, norepinephrine_equivalent)
        again = patients.previous_action(self.preprocessing) == self.best
        risk = np.where(again, told.mortality_90d, 0.4).astype(np.float32)
        return replace(told, mortality_90d=risk)


@pytest.fixture
def seen(toy_model):
    patients = toy_model.start(40, np.random.default_rng(0))
    return encode_observation(patients, toy_model.preprocessing)


def test_the_greedy_agent_takes_what_the_model_holds_best_unless_in_doubt(toy_model, seen):
    for best in (0, 13, 24):
        agent = GreedyAgent(Preferring(toy_model, best))
        assert np.all(agent.batch_probabilities(seen).argmax(1) == best)
    doubting = GreedyAgent(Preferring(toy_model, 13, doubted=13), penalty=20.0)
    assert not np.any(doubting.batch_probabilities(seen)[:, 13])
    reckless = GreedyAgent(Preferring(toy_model, 13, doubted=13), penalty=0.0)
    assert np.all(reckless.batch_probabilities(seen)[:, 13])


def test_looking_ahead_stays_near_the_guideline(toy_model, seen):
    usual = np.stack(decode_action(GuidelineAgent(toy_model.preprocessing).choose(seen)))
    agent = PlanningAgent(Preferring(toy_model, N_ACTIONS - 1), horizon=2, reach=1)
    chosen = np.stack(decode_action(agent.batch_probabilities(seen).argmax(1)))
    assert np.abs(chosen - usual).max() <= 1
    held = PlanningAgent(Preferring(toy_model, N_ACTIONS - 1), reach=0)
    assert np.array_equal(np.stack(decode_action(held.batch_probabilities(seen).argmax(1))), usual)


def test_a_search_two_steps_deep_finds_what_takes_two_steps(toy_model, seen):
    model = PreferringTwice(toy_model, 13)
    short, deep = (PlanningAgent(model, horizon=2, depth=d, reach=4) for d in (1, 2))
    assert np.all(deep.batch_probabilities(seen)[:, 13])
    assert not np.all(short.batch_probabilities(seen)[:, 13])


def test_a_deeper_search_never_expects_less():
    agents = [PlanningAgent(horizon=3, depth=depth) for depth in (1, 2, 3)]
    patients = agents[0].model.start(12, np.random.default_rng(3))
    action = np.arange(12)
    values = [agent.value(patients, action) for agent in agents]
    assert np.all(np.diff(values, axis=0) >= -1e-5)
    assert np.any(np.diff(values, axis=0) > 0.01, axis=1).all()
    bound = PlanningAgent(horizon=3, depth=3, reach=0).value(patients, action)
    np.testing.assert_allclose(bound, values[0], atol=1e-4)


def test_planners_plan_in_the_shipped_model_whatever_the_batch_and_survive_the_disk(tmp_path):
    for name in ("greedy", "lookahead"):
        agent = make_agent(name)
        patients = agent.model.start(30, np.random.default_rng(1))
        seen = encode_observation(patients, agent.preprocessing)
        chosen = agent.batch_probabilities(seen)
        assert len(np.unique(chosen.argmax(1))) > 2
        assert np.array_equal(agent.action_probabilities(seen[4], {}), chosen[4])
        save_agent(agent, tmp_path / name)
        again = load_agent(tmp_path / name)
        assert np.array_equal(again.batch_probabilities(seen), chosen)
        told = json.loads((tmp_path / name / "agent.json").read_text())["provenance"]
        assert told == {"world_model_sha256": agent.model.digest}
    for wrong in ({"horizon": 0}, {"depth": 0}, {"horizon": 2, "depth": 3}):
        with pytest.raises(ConfigError, match="depth must be 1 or more, horizon not less"):
            make_agent("lookahead", **wrong)


def test_many_patients_under_a_dose_each_are_what_each_would_be_alone():
    agent = make_agent("greedy")
    model, scales = agent.model, agent.preprocessing
    patients = model.start(5, np.random.default_rng(2))
    doses = scales.action_bins.doses(np.array([0, 6, 12, 18, 24]))
    together = model.simulate(patients, *doses)
    for i in range(5):
        one = patients.take(np.array([i]))
        alone = model.simulate(one, *(dose[i : i + 1] for dose in doses))
        assert np.allclose(alone.values, together.values[i : i + 1], atol=1e-4)
        assert np.allclose(alone.mortality_90d, together.mortality_90d[i], atol=1e-5)
    with pytest.raises(ValueError, match="3 treatments for 5 patients"):
        model.simulate(patients, *(dose[:3] for dose in doses))
