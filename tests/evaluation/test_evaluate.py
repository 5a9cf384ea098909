import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from evaluation import EvaluationConfig, Results, evaluate_agents
from evaluation.behavior import BehaviorConfig, fit_behavior_policy
from evaluation.estimators import weight_diagnostics
from evaluation.fqe import FQEConfig
from evaluation.rollout import rollout_value
from evaluation.target import agent_probabilities
from evaluation.trust import TrustGate, judge
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import BatchAgent
from sepsis_gym.envs.sepsis import SepsisEnv
from sepsis_gym.envs.vector import SepsisVectorEnv
from sepsis_gym.errors import ConfigError

FEW = FQEConfig(refits=3)
SIMPLE = BehaviorConfig(candidates=("neighbors", "logistic"))
QUICK = EvaluationConfig(resamples=50, rollout_episodes=8, fqe=FEW, behavior=SIMPLE)


class FixedAgent:
    """Gives every state the same probabilities, one call at a time."""

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities = np.asarray(probabilities, np.float64)
        self.counts = {"asked": 0, "invalid replies": 0}
        self.stays: list[int] = []

    def reset(self) -> None:
        pass

    def act(self, observation, info) -> int:
        return int(self.probabilities.argmax())

    def action_probabilities(self, observation, info) -> np.ndarray:
        self.counts["asked"] += 1
        self.stays.append(info["stay_id"])
        return self.probabilities


class FixedBatchAgent(FixedAgent):
    """The same as a function of an array."""

    def batch_probabilities(self, observations) -> np.ndarray:
        return np.tile(self.probabilities, (len(observations), 1))


UNIFORM = np.full(N_ACTIONS, 1 / N_ACTIONS)
CONSTANT = np.eye(N_ACTIONS)[5]


@pytest.fixture(scope="module")
def results(trajectories) -> Results:
    agents = {
        "constant": FixedBatchAgent(CONSTANT),
        "random": FixedBatchAgent(UNIFORM),
        "walked": FixedAgent(UNIFORM),
    }
    return evaluate_agents(agents, trajectories, QUICK)


def test_clinicians_are_the_plain_mean_return(results, trajectories):
    test = trajectories.split("test")
    clinicians = results.rows[0]
    mean = (test.padded(test.reward) * 0.99 ** np.arange(test.mask.shape[1])).sum(1).mean()
    estimate = clinicians.estimates["mean_return"]
    assert estimate.value == pytest.approx(mean)
    assert estimate.low <= mean <= estimate.high
    assert (estimate.difference, estimate.difference_low, estimate.difference_high) == (0, 0, 0)
    assert clinicians.weights is None


def test_rows_are_complete(results):
    assert [row.agent for row in results.rows] == ["clinicians", "constant", "random", "walked"]
    for row in results.rows[1:]:
        assert set(row.estimates) == {"is", "wis", "pdis", "wpdis", "dr", "wdr", "fqe"}
        for estimate in row.estimates.values():
            assert np.isfinite([estimate.value, estimate.low, estimate.high]).all()
            clinicians = results.rows[0].estimates["mean_return"].value
            assert estimate.difference == pytest.approx(estimate.value - clinicians)
        assert row.trust == "unusable"  # a dozen stays tell nothing
        assert any("ESS" in reason for reason in row.reasons)


def test_only_policies_without_support_are_softened_and_say_so(results):
    _, constant, random, _ = results.rows
    assert constant.policy == "constant + 0.01 uniform"
    assert random.policy == "random"
    assert constant.safety.adherence == 1  # of the agent itself


def test_walking_the_replay_equals_asking_in_batch(results, trajectories):
    _, _, batch, walked = results.rows
    for method in ("wis", "wpdis"):
        assert walked.estimates[method] == batch.estimates[method]
    assert "and the training split" in batch.q_source
    assert "5 folds of the evaluated stays, ridge" in walked.q_source
    agent = FixedAgent(UNIFORM)
    test = trajectories.split("test")
    probabilities = agent_probabilities("walked", agent, test).probabilities
    assert agent.stays == test.stays.stay_id[test.stay_of_row[test.is_decision]].tolist()
    assert probabilities.shape == (len(test.action), N_ACTIONS)
    assert walked.counts == {"asked": len(agent.stays), "invalid replies": 0}
    assert not isinstance(agent, BatchAgent)


def test_an_agent_that_repeats_the_behavior_policy_gets_the_clinicians_value(trajectories):
    policy = fit_behavior_policy(trajectories.split("train"), SIMPLE).policy
    chance = policy.probabilities(trajectories)
    of = dict(zip(map(bytes, trajectories.observations()), chance, strict=True))

    class Clone(FixedBatchAgent):
        def batch_probabilities(self, observations):
            return np.array([of[bytes(each)] for each in observations])

    config = replace(QUICK, softening=0.0)
    clinicians, clone = evaluate_agents({"clone": Clone(UNIFORM)}, trajectories, config).rows
    mean = clinicians.estimates["mean_return"].value
    assert clone.estimates["wis"].value == pytest.approx(mean)
    assert clone.estimates["wpdis"].value == pytest.approx(mean)
    assert clone.weights.ess == pytest.approx(len(trajectories.split("test")))
    assert clone.weights.mean_rho == pytest.approx(1)


def test_lost_support_is_null_with_a_reason(trajectories, tmp_path):
    never = np.eye(N_ACTIONS)[4]
    config = EvaluationConfig(fqe=FEW, behavior=SIMPLE, resamples=20, softening=0.0)
    results = evaluate_agents({"never": FixedBatchAgent(never)}, trajectories, config)
    row = results.rows[1]
    assert row.weights.support_lost_at is not None
    assert np.isnan(row.estimates["wis"].value)
    assert row.trust == "unusable"
    results.save(tmp_path)
    saved = json.loads((tmp_path / "results.json").read_text())["rows"][1]
    assert saved["estimates"]["wis"]["value"] is None
    assert "supports" in saved["estimates"]["wis"]["reason"]
    assert saved["estimates"]["dr"]["value"] is not None


def test_ratio_cap_is_counted(trajectories):
    config = EvaluationConfig(fqe=FEW, behavior=SIMPLE, resamples=20, ratio_cap=1.0)
    row = evaluate_agents({"r": FixedBatchAgent(UNIFORM)}, trajectories, config).rows[1]
    assert 0 < row.capped_share < 1
    assert row.weights.mean_rho <= 1
    assert row.reasons[-1].endswith("of the ratios cut to 1")


def test_files_are_whole_and_identical_for_the_same_seed(results, trajectories, tmp_path):
    again = evaluate_agents(
        {
            "constant": FixedBatchAgent(CONSTANT),
            "random": FixedBatchAgent(UNIFORM),
            "walked": FixedAgent(UNIFORM),
        },
        trajectories,
        QUICK,
    )
    results.save(tmp_path / "a")
    again.save(tmp_path / "b")
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "results.csv",
        "results.json",
        "results.txt",
    ]
    for name in ("results.csv", "results.json", "results.txt"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    encoded = (tmp_path / "a" / "results.json").read_text()
    assert "NaN" not in encoded
    assert json.loads(encoded)["config"]["gamma"] == 0.99
    with open(tmp_path / "a" / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["agent"] for line in table] == ["clinicians", "constant", "random", "walked"]
    assert float(table[2]["estimates_wis_value"]) == pytest.approx(
        results.rows[2].estimates["wis"].value
    )


def test_text_marks_untrusted_rows_and_ends_with_the_disclaimer(results):
    text = results.to_text()
    assert text.rstrip().endswith("Research software, never for patient care.")
    assert "constant + 0.01 uniform: unusable: ESS" in text
    assert "walked: counted: asked" in text
    assert "\x1b[" not in text
    colored = results.to_text(color=True)
    assert "\x1b[2m" in colored  # dim


def test_rollouts_in_single_and_vector_environments(trajectories, toy_model):
    agent = FixedBatchAgent(CONSTANT)
    single = rollout_value(SepsisEnv(toy_model), agent, episodes=40, seed=1)
    vector = rollout_value(SepsisVectorEnv(8, toy_model), agent, episodes=300, seed=1)
    assert (single.episodes, vector.episodes) == (40, 304)
    assert single.low < single.mean < single.high
    assert single.mean == pytest.approx(vector.mean, abs=5)
    again = rollout_value(SepsisVectorEnv(8, toy_model), agent, episodes=300, seed=1)
    assert again == vector


def test_vector_rollout_of_one_copy_equals_the_single_environment(toy_model):
    agent = FixedBatchAgent(CONSTANT)
    single = rollout_value(SepsisEnv(toy_model), agent, episodes=20, seed=4, gamma=0.9)
    vector = rollout_value(SepsisVectorEnv(1, toy_model), agent, episodes=20, seed=4, gamma=0.9)
    assert vector.mean == pytest.approx(single.mean)


def test_world_model_column(trajectories, toy_model):
    results = evaluate_agents(
        {"constant": FixedBatchAgent(CONSTANT)}, trajectories, QUICK, env=SepsisEnv(toy_model)
    )
    assert results.rows[1].world_model_return.episodes == 8
    heading = next(line for line in results.to_text().splitlines() if "Policy" in line)
    assert heading.split()[-3:] == ["World", "model", "Trust"]


def test_agents_that_a_vector_environment_cannot_run_say_so(trajectories, toy_model):
    agents = {"batch": FixedBatchAgent(UNIFORM), "walked": FixedAgent(UNIFORM)}
    env = SepsisVectorEnv(4, toy_model)
    _, batch, walked = evaluate_agents(agents, trajectories, QUICK, env=env).rows
    assert batch.world_model_return.episodes == 8
    assert walked.world_model_return is None
    assert "needs a batch agent" in walked.reasons[-1]
    with pytest.raises(ConfigError, match="BatchAgent"):
        rollout_value(env, agents["walked"], episodes=1, seed=0)
    other = SepsisVectorEnv(4, toy_model, autoreset_mode="SameStep")
    with pytest.raises(ConfigError, match="next-step autoreset"):
        rollout_value(other, agents["batch"], episodes=1, seed=0)


@pytest.mark.parametrize("bad", [UNIFORM * 2, UNIFORM[:5], np.where(CONSTANT, 2.0, -1 / 24)])
@pytest.mark.parametrize("kind", [FixedAgent, FixedBatchAgent])
def test_probabilities_are_checked(trajectories, bad, kind):
    with pytest.raises(ValueError, match="agent odd"):
        agent_probabilities("odd", kind(bad), trajectories.split("test"))


def test_impossible_requests_fail_early(trajectories):
    with pytest.raises(ConfigError, match="clinicians"):
        evaluate_agents({"clinicians": FixedAgent(UNIFORM)}, trajectories)
    with pytest.raises(ConfigError, match="ratio_cap"):
        EvaluationConfig(ratio_cap=0.5)


def verdict(ratio: np.ndarray, **changes):
    weights = weight_diagnostics(ratio, np.ones(ratio.shape, bool))
    settings = {"n_stays": len(ratio), "lost_resamples": 0, "q_outside_share": 0.0}
    settings |= {"behavior_mean_rho": 1.0, "gate": TrustGate(), **changes}
    return judge(weights, **settings)


def test_trust_verdicts():
    assert verdict(np.ones((200, 3))) == ("ok", ())
    assert verdict(np.ones((60, 3)))[0] == "caution"  # ESS 60
    assert verdict(np.ones((9, 3)))[0] == "unusable"
    assert verdict(np.full((200, 1), 1.5))[0] == "caution"
    assert verdict(np.full((200, 1), 0.4))[0] == "unusable"
    assert verdict(np.ones((200, 1)), behavior_mean_rho=1.4)[0] == "caution"
    assert verdict(np.ones((200, 1)), lost_resamples=2)[0] == "caution"
    assert verdict(np.ones((200, 1)), q_outside_share=0.1)[0] == "caution"
    assert "support lost at step 0" in verdict(np.zeros((200, 1)))[1]


def test_trust_scales_with_the_log():
    gate = TrustGate()
    assert gate.unusable_below(50) == 10
    assert gate.unusable_below(290) == pytest.approx(20)
    assert gate.unusable_below(5000) == 50


def test_agents_and_environments_of_another_cohort_are_refused(trajectories, toy_model):
    other = replace(trajectories.preprocessing, static_mean=(0.0, 0.0, 0.0))
    agent = FixedBatchAgent(CONSTANT)
    agent.preprocessing = other
    with pytest.raises(ConfigError, match="agent stranger was trained on other data"):
        evaluate_agents({"stranger": agent}, trajectories, QUICK)
    toy_model.preprocessing = other
    with pytest.raises(ConfigError, match="environment differs"):
        evaluate_agents(
            {"one": FixedBatchAgent(CONSTANT)}, trajectories, QUICK, env=SepsisEnv(toy_model)
        )


def test_sensitivity_repeats_the_row_where_the_choice_is_the_same(results, trajectories):
    clinicians, constant, random, _ = results.rows
    settings = [entry.setting for entry in constant.sensitivity[::2]]
    assert settings[:4] == ["softening 0.001", "softening 0.01", "softening 0.05", "no ratio cap"]
    assert settings[-2:] == ["gamma 0.9", "gamma 1"]
    assert not any("softening" in entry.setting for entry in random.sensitivity)
    same = [e for e in constant.sensitivity if e.setting in ("softening 0.01", "no ratio cap")]
    for entry in same:
        estimate = constant.estimates[entry.method]
        assert (entry.value, entry.low, entry.high) == (estimate.value, estimate.low, estimate.high)
        assert entry.ess == constant.weights.ess
    capped = replace(QUICK, ratio_cap=2.0)
    row = evaluate_agents({"random": FixedBatchAgent(UNIFORM)}, trajectories, capped).rows[1]
    cut = {e.method: e for e in random.sensitivity if e.setting == "ratio cap 2"}
    assert cut["wis"].value == row.estimates["wis"].value != random.estimates["wis"].value
    undiscounted = trajectories.split("test").padded(trajectories.split("test").reward).sum(1)
    last = clinicians.sensitivity[-1]
    assert (last.setting, last.method) == ("gamma 1", "wpdis")
    assert last.value == pytest.approx(undiscounted.mean())


@pytest.mark.parametrize("kind", ["bca", "delta"])
def test_other_intervals(trajectories, results, kind):
    config = EvaluationConfig(fqe=FEW, behavior=SIMPLE, resamples=200, interval=kind)
    clinicians, row = evaluate_agents({"r": FixedBatchAgent(UNIFORM)}, trajectories, config).rows
    estimate, percentile = row.estimates["wis"], results.rows[2].estimates["wis"]
    assert estimate.value == percentile.value
    assert (estimate.low, estimate.high) != (percentile.low, percentile.high)
    assert estimate.low < estimate.value < estimate.high
    own = clinicians.estimates["mean_return"]
    assert (own.difference_low, own.difference_high) == (0, 0)


def test_q_of_the_evaluated_stays_themselves_is_refused():
    with pytest.raises(ConfigError, match="q_folds must be 2 or more, got 1: a Q fitted on the"):
        EvaluationConfig(q_folds=1)


def test_neural_fqe_is_asked_for(trajectories, monkeypatch):
    asked = []

    def stand_in(agent, train, evaluated, **settings):
        asked.append((len(train), len(evaluated), settings))
        return 3.5

    monkeypatch.setattr("evaluation.evaluate.neural_fqe", stand_in)
    agents = {"batch": FixedBatchAgent(CONSTANT), "walked": FixedAgent(UNIFORM)}
    config = replace(QUICK, neural_fqe=True)
    rows = evaluate_agents(agents, trajectories, config).rows
    assert [row.neural_fqe for row in rows] == [None, 3.5, None]
    sizes = tuple(len(trajectories.split(name)) for name in ("train", "test"))
    assert asked == [(*sizes, {"gamma": 0.99, "softening": 0.01, "seed": 0})]
