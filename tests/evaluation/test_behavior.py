from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import make_raw_cohort

from evaluation import EvaluationConfig, behavior, clinician_models
from evaluation.behavior import (
    BehaviorConfig,
    BehaviorFit,
    _choose,
    _judged,
    check_behavior,
    fit_behavior_policy,
)
from evaluation.clinician_models import FAMILIES, Decisions
from evaluation.evaluate import Evaluation
from evaluation.fqe import FQEConfig
from evaluation.propensities import Propensities
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.errors import ConfigError, SourceError, SupportError
from sepsis_gym.trajectories import Trajectories

SEEN = 20  # actions 20-24 never happen
QUICK = BehaviorConfig(candidates=("neighbors", "logistic"))


@pytest.fixture(scope="module")
def known() -> tuple[Trajectories, np.ndarray]:
    """Stays whose actions follow a softmax of the observation, and its probabilities."""
    cohort = make_raw_cohort(800)
    stays = assemble(cohort, AssemblyConfig(), source="known policy", credentialed=False)
    rng = np.random.default_rng(0)
    logits = stays.observations()[:, :10] @ rng.normal(0, 1, (10, SEEN))
    truth = np.exp(logits)
    truth /= truth.sum(1, keepdims=True)
    drawn = (truth.cumsum(1) > rng.random((len(truth), 1))).argmax(1)
    truth = np.concatenate([truth, np.zeros((len(truth), N_ACTIONS - SEEN))], axis=1)
    return replace(stays, action=np.where(stays.is_decision, drawn, -1)), truth


@pytest.fixture(scope="module")
def fit(known) -> BehaviorFit:
    return fit_behavior_policy(known[0].split("train"), QUICK)


def propensities(stays: Trajectories, chance: np.ndarray) -> Propensities:
    rows = stays.is_decision
    keys = zip(stays.stays.stay_id[stays.stay_of_row[rows]], stays.step[rows], strict=True)
    return Propensities(dict(zip(keys, chance[rows], strict=True)), Path("propensities.parquet"))


def of_test(stays: Trajectories) -> np.ndarray:
    return np.isin(stays.stay_of_row, np.flatnonzero(stays.stays.split == "test"))


def test_recovers_known_probabilities_and_is_never_zero(known, fit):
    stays, truth = known
    test, rows = stays.split("test"), of_test(stays)
    decided = test.is_decision
    fitted = fit.policy.probabilities(test)
    np.testing.assert_allclose(fitted.sum(1), 1)
    assert fitted.min() > 0
    wrong = np.abs(fitted - truth[rows])[decided].mean()
    from_marginal = np.abs(fit.policy.marginal - truth[rows])[decided].mean()
    assert wrong < 0.4 * from_marginal


def test_report_on_held_out_stays(known, fit):
    stays, truth = known
    test = stays.split("test")
    report = check_behavior(fit, test)
    decided = test.is_decision
    possible = np.log(truth[of_test(stays)][decided, test.action[decided]]).mean()
    assert report.marginal_log_likelihood + 0.5 < report.log_likelihood <= possible + 0.02
    assert 0 <= report.calibration_error < 0.06
    assert sum(report.action_frequency) == pytest.approx(1)
    assert sum(report.action_predicted) == pytest.approx(1)
    assert report.mean_rho_per_step[0] == pytest.approx(1, abs=0.2)
    assert sum(each.pairs for each in report.reliability) == decided.sum() * N_ACTIONS
    often = [each for each in report.reliability if each.pairs > 300]
    assert len(often) > 3
    for each in often:
        spread = 4 * (each.predicted / each.pairs) ** 0.5
        assert each.logged == pytest.approx(each.predicted, abs=spread + 0.3 * each.predicted)
    own = check_behavior(replace(fit, other=fit.policy), test)
    np.testing.assert_allclose(own.mean_rho_per_step, 1)


def test_all_families_are_judged_where_they_were_not_fitted(known, monkeypatch):
    pytest.importorskip("torch", reason="the torch extra is not installed")
    train = known[0].split("train").select(np.arange(100))
    whole = Decisions.of(train)
    fitted_on: dict[str, list[set[int]]] = {}

    def noting(name):
        def fit(decisions, seed):
            patients = set(decisions.subject.tolist())
            fitted_on.setdefault(name, []).append(patients)
            predict = FAMILIES[name](decisions, seed)

            def checked(asked):
                everyone = len(patients) == len(np.unique(whole.subject))
                assert everyone or not patients & set(asked.subject.tolist())
                return predict(asked)

            return checked

        return fit

    monkeypatch.setattr(behavior, "FAMILIES", {name: noting(name) for name in FAMILIES})
    monkeypatch.setattr(clinician_models, "_TREES", 15)
    fit = fit_behavior_policy(train, BehaviorConfig(folds=2))
    assert [each.name for each in fit.candidates] == [*FAMILIES, "pool"]
    assert set(fit.candidates[0].mean_rho) == {"neighbors", "logistic"}
    assert all(len(patients) == 3 for patients in fitted_on.values())
    pool = fit.candidates[-1]
    assert np.log(fit.policy.marginal[whole.action]).mean() < pool.log_likelihood < 0


def test_test_stays_never_enter_the_fit(trajectories):
    config = EvaluationConfig(behavior=QUICK)
    rng = np.random.default_rng(0)
    asked = Evaluation(trajectories, config)
    not_train = np.isin(
        trajectories.stay_of_row, np.flatnonzero(trajectories.stays.split != "train")
    )
    other = np.where(
        not_train & trajectories.is_decision,
        rng.integers(0, N_ACTIONS, len(not_train)),
        trajectories.action,
    )
    changed = Evaluation(replace(trajectories, action=other), config)
    assert changed.behavior.candidates == asked.behavior.candidates
    assert changed.behavior.log_likelihood != asked.behavior.log_likelihood


def test_the_same_seed_gives_the_same_probabilities(known):
    pytest.importorskip("torch", reason="the torch extra is not installed")
    decisions = Decisions.of(known[0].split("train").select(np.arange(60)))
    for name, family in FAMILIES.items():
        first, again = (family(decisions, 3)(decisions) for _ in range(2))
        np.testing.assert_array_equal(first, again, err_msg=name)
    recurrent = FAMILIES["recurrent"]
    assert (recurrent(decisions, 4)(decisions) != recurrent(decisions, 3)(decisions)).any()


def test_a_wrong_model_of_good_likelihood_is_rejected(known):
    """Too sure of itself: rare actions come five times as often as it expects."""
    decisions = Decisions.of(known[0])
    rng = np.random.default_rng(1)
    n = len(decisions.action)
    decisions = replace(decisions, action=rng.choice(3, n, p=[0.9, 0.05, 0.05]))

    def always(*chance: float) -> np.ndarray:
        return np.tile(np.pad(chance, (0, N_ACTIONS - 3)), (n, 1))

    given = {"sure": always(0.98, 0.01, 0.01), "flat": always(0.7, 0.15, 0.15)}
    targets = {"right": always(0.9, 0.05, 0.05)}
    nobody = np.zeros(n, bool)
    sure, flat = (_judged(name, each, targets, decisions, nobody) for name, each in given.items())
    assert sure.log_likelihood > flat.log_likelihood + 0.02
    assert sure.mean_rho["right"] > flat.mean_rho["right"] > 1
    assert sure.rare_error == pytest.approx(4, abs=0.3)
    assert _choose([sure, flat], BehaviorConfig())[0] == "flat"
    # unless it is far behind
    assert _choose([sure, flat], BehaviorConfig(likelihood_slack=0.01))[0] == "sure"
    right = _judged("known", targets["right"], given, decisions, nobody)
    assert _choose([sure, flat, right], BehaviorConfig())[0] == "known"


def test_known_propensities_give_a_mean_rho_of_one_within_its_interval(trajectories, known):
    stays, truth = known

    class Flatter:
        """The clinicians, a little less sure."""

        def reset(self): ...
        def act(self, observation, info): ...
        def action_probabilities(self, observation, info):
            row = of_row[info["stay_id"], info["step"]]
            return truth[row] ** 0.8 / (truth[row] ** 0.8).sum()

    ids = stays.stays.stay_id[stays.stay_of_row].tolist()
    of_row = {key: row for row, key in enumerate(zip(ids, stays.step.tolist(), strict=True))}
    settings = EvaluationConfig(
        behavior=QUICK, fqe=FQEConfig(refits=3), resamples=200, softening=0.0
    )

    def row(chance):
        evaluation = Evaluation(stays, settings, known=propensities(stays, chance))
        return evaluation.behavior, evaluation.row("flatter", Flatter())

    report, right = row(truth)
    low, high = right.mean_rho_interval
    assert low <= 1 <= high < 3
    assert report.name == "known"
    assert "true probabilities" in report.reason
    assert report.candidates[-1].name == "known"
    assert not any("doubtful" in reason for reason in right.reasons)
    flat = np.where(np.arange(N_ACTIONS) < SEEN, 1 / SEEN, 0) + 0 * truth
    low, high = row(flat)[1].mean_rho_interval
    assert not low <= 1 <= high


def test_an_action_of_known_probability_zero_says_nothing(known):
    stays, truth = known
    test = stays.split("test")
    rows = np.flatnonzero(test.is_decision)
    chance = truth[of_test(stays)].copy()
    chance[rows[0], test.action[rows[0]]] = 0
    fit = BehaviorFit(None, None, (), "", propensities(test, chance))
    taken = fit.taken(test)
    assert np.isnan(taken[rows[0]])
    assert np.isfinite(taken[rows[1:]]).all()
    chance[rows, test.action[rows]] = 0
    with pytest.raises(SourceError, match=r"100\.0% of the logged actions have probability 0"):
        propensities(test, chance).of(test)
    with pytest.raises(SourceError, match="no row for stay"):
        propensities(test, chance).of(stays)


def test_propensities_are_read_from_the_cohort_folder(tmp_path):
    with pytest.raises(SourceError, match="--decision-interval-hours 4"):
        Propensities.read(tmp_path)
    columns = {f"p_{action}": [0.04, 0.04] for action in range(N_ACTIONS)}
    table = {"stay_id": [7, 7], "step": [0, 1], **columns}
    pq.write_table(pa.table(table), tmp_path / "propensities.parquet")
    assert Propensities.read(tmp_path).probability[7, 1].sum() == pytest.approx(1)
    pq.write_table(pa.table(table | {"p_3": [0.04, 0.5]}), tmp_path / "propensities.parquet")
    with pytest.raises(SourceError, match="of stay 7, step 1 do not add up to 1"):
        Propensities.read(tmp_path)


def test_a_single_logged_action_leaves_the_others_possible(trajectories):
    constant = replace(trajectories, action=np.where(trajectories.is_decision, 7, -1))
    fitted = fit_behavior_policy(constant, QUICK).policy.probabilities(constant)
    assert fitted[:, 7].min() > 0.9
    assert fitted.min() > 0


def test_without_torch_the_recurrent_model_is_skipped_and_said_so(trajectories, monkeypatch):
    def missing(decisions, seed):
        raise ImportError("torch")

    monkeypatch.setattr(behavior, "FAMILIES", {**FAMILIES, "recurrent": missing})
    config = BehaviorConfig(candidates=("neighbors", "logistic", "recurrent"))
    fit = fit_behavior_policy(trajectories, config)
    assert [each.name for each in fit.candidates] == ["neighbors", "logistic", "pool"]
    assert fit.reason.endswith("recurrent was skipped, torch is missing")


def test_needs_two_patients(trajectories):
    with pytest.raises(SupportError, match="two patients"):
        fit_behavior_policy(trajectories.select(np.array([0])), QUICK)


@pytest.mark.parametrize(
    "bad",
    [{"candidates": ("logistic", "recurrent")}, {"candidates": ("x",)}, {"smoothing": 0.0},
     {"folds": 1}],
)  # fmt: skip
def test_config_is_checked(bad):
    with pytest.raises(ConfigError):
        BehaviorConfig(**bad)
