from dataclasses import asdict, replace

import numpy as np
import pytest

from agents import make_agent
from agents.policy import BatchPolicy, one_hot
from evaluation.truth import Measured, Truth, TruthConfig
from sepsis_gym.actions import encode_action
from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.dynamics import End
from sepsis_gym.envs.episode import advance, begin
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import OBSERVATION_SLICES
from sepsis_gym.registration import mechanistic_model, ward_of
from sepsis_gym.reward import RewardConfig
from world_models.physiology.clinician import ClinicianConfig
from world_models.physiology.records.blocks import simulated
from world_models.physiology.records.stays import FIRST_STAY
from world_models.physiology.records.trajectories import raw_cohort

GAMMA = 0.97
MAP = OBSERVATION_SLICES["features"].start + FEATURE_INDEX["meanbp"]


def cohort_of(patients, seed, **clinician):
    style = ClinicianConfig(**clinician)
    raw = raw_cohort(simulated(patients, seed, style), step_hours=4, seed=seed)
    build = {"synthetic": {"patients": patients, "seed": seed, "clinician": asdict(style)}}
    return assemble(raw, AssemblyConfig(), source="test", credentialed=False, build=build)


@pytest.fixture(scope="module")
def cohort():
    return cohort_of(3000, 3, exploration=0.1)


@pytest.fixture(scope="module")
def truth(cohort):
    return Truth(cohort, gamma=GAMMA, config=TruthConfig(episodes=1000, single_episodes=8))


class Titrating(BatchPolicy):
    """Vasopressor and fluid where the pressure is low, little otherwise."""

    def __init__(self, preprocessing):
        super().__init__()
        feature = FEATURE_INDEX["meanbp"]
        self.low = (65 - preprocessing.mean[feature]) / preprocessing.scale[feature]

    def batch_probabilities(self, observations):
        low = observations[:, MAP] < self.low
        return one_hot(np.where(low, encode_action(3, 3), encode_action(1, 1)))


class OneByOne:
    """A batch agent without its batches."""

    def __init__(self, agent):
        self.agent, self.resets, self.steps = agent, 0, []

    def reset(self):
        self.resets += 1

    def act(self, observation, info):
        self.steps.append(info["step"])
        return self.agent.act(observation, info)

    def action_probabilities(self, observation, info):
        return self.agent.action_probabilities(observation, info)


def returns(trajectories):
    paid = trajectories.padded(trajectories.reward)
    return paid @ GAMMA ** np.arange(paid.shape[1])


def test_clinicians_are_worth_what_their_cohort_earned(cohort, truth):
    """Other patients, other luck: logged mean and true value agree within sampling error."""
    logged, true = returns(cohort), truth.clinicians
    error = np.hypot(logged.std() / len(cohort) ** 0.5, (true.value.high - true.value.low) / 3.92)
    assert abs(logged.mean() - true.value.value) < 3 * error
    assert error < 0.4
    assert true.difference.value == true.difference.low == 0
    assert true.episodes == 1000


def test_the_clinicians_record_is_the_cohort_to_the_last_reward():
    """Same seed: the ward writes the very stays that a cohort holds, but for the luck of fate."""
    cohort = cohort_of(300, 8, decision_interval_hours=4)
    treated = ward_of(cohort)(300, 8)
    at = cohort.stays.stay_id - FIRST_STAY
    n_steps = cohort.mask.shape[1]
    np.testing.assert_array_equal(treated.mask[at, :n_steps], cohort.mask)
    assert treated.mask.sum() == cohort.mask.sum()
    within = cohort.mask & ~cohort.padded(cohort.terminated, False)
    np.testing.assert_array_equal(
        treated.reward[at, :n_steps][within], cohort.padded(cohort.reward)[within]
    )
    assert (treated.mortality_90d[at][cohort.stays.end == End.DIED] == 1).all()
    last = treated.reward[at, cohort.n_decisions - 1]
    np.testing.assert_allclose(last, 15 - 30 * treated.mortality_90d[at], rtol=1e-12)


def test_an_agent_is_shown_what_the_cohort_shows():
    cohort = cohort_of(200, 4)
    seen = []

    def watching(patients):
        seen.append(patients)
        return np.zeros(len(patients), np.int64)

    ward_of(cohort)(200, 4, watching)
    first = cohort.patients(cohort.offsets[:-1])
    shown = seen[0].take(cohort.stays.stay_id - FIRST_STAY)
    for name in ("values", "age", "ventilated", "static", "previous_fluid_ml"):
        np.testing.assert_array_equal(getattr(shown, name), getattr(first, name))
    assert [patients.step[0] for patients in seen] == list(range(18))
    assert seen[5].previous_fluid_ml.max() == 0  # as it chose


def test_values_are_decided_by_the_seed_and_paired(cohort, truth):
    agent = make_agent("no_treatment")
    value = truth.value(agent)
    again = Truth(cohort, gamma=GAMMA, config=truth.config)
    assert again.value(agent) == value
    other = replace(truth.config, seed=1)
    assert Truth(cohort, gamma=GAMMA, config=other).value(agent) != value
    # the patients' own differences cancel
    unpaired = np.hypot(*(v.value.high - v.value.value for v in (value, truth.clinicians)))
    assert value.difference.high - value.difference.value < 0.85 * unpaired
    np.testing.assert_allclose(
        value.difference.value, value.value.value - truth.clinicians.value.value
    )


def test_no_treatment_is_worse_than_treating_low_pressure(truth):
    none = truth.value(make_agent("no_treatment"))
    treating = truth.value(Titrating(truth.preprocessing))
    assert none.survival_difference.high < 0
    assert none.survival_difference.high < treating.survival_difference.low
    assert none.hypotension_difference.low > 0
    assert treating.hypotension.high < none.hypotension.low
    assert none.uncounted_share > truth.clinicians.uncounted_share


def test_several_treatments_count_as_their_mean(truth):
    none, much = (truth.treated_by(make_agent("fixed_dose", action=dose)) for dose in (0, 24))
    assert (none.mask.any(1) != much.mask.any(1)).any()  # not all count in both
    alone = truth.compare(none, much)
    assert truth.compare([none, none], [much, much]) == alone
    half = truth.compare([none, much], much)
    np.testing.assert_allclose(half.difference.value, alone.difference.value / 2, rtol=0.02)
    np.testing.assert_allclose(half.survival_difference.value, alone.survival_difference.value / 2)
    each = [truth.compare(one, one).uncounted_share for one in (none, much)]
    np.testing.assert_allclose(half.uncounted_share, np.mean(each))


def test_softening_moves_a_policy_towards_chance(truth):
    agent, random = make_agent("fixed_dose", action=24), truth.value(make_agent("random"))
    hard, soft = truth.value(agent), truth.value(agent, softening=0.5)
    assert hard.value.high < soft.value.low < soft.value.high < random.value.low
    all_chance = truth.value(agent, softening=1.0)
    np.testing.assert_allclose(all_chance.value.value, random.value.value)


def test_agents_without_batches_treat_one_by_one(truth):
    single = OneByOne(make_agent("fixed_dose", action=24))
    value = truth.value(single)
    assert value.episodes == 8
    assert 6 <= single.resets == single.steps.count(0) <= 8  # some are gone before they are seen
    assert max(single.steps) == 17
    assert value.difference.value < -3


def test_an_agent_that_waits_treats_many_at_a_time_and_is_worth_the_same(truth):
    class Sessions(OneByOne):
        def __init__(self, workers):
            super().__init__(make_agent("random"))
            self.workers = workers

        def session(self):
            return OneByOne(make_agent("random"))

    alone, together = (truth.value(Sessions(n), softening=0.5) for n in (1, 4))
    assert alone == together
    assert alone.difference.high > alone.difference.low


def test_survival_is_that_of_the_environment(cohort):
    """The same fixed dose in SepsisPhysio-v0: other patients, the same physiology."""
    model, n = mechanistic_model(cohort.preprocessing), 1500
    rng, action = np.random.default_rng(1), np.full(1500, 12)
    state = begin(model.start(n, rng), model.preprocessing)
    alive = np.full(n, np.nan)
    for _ in range(model.preprocessing.max_steps):
        state, _ = advance(model, state, action, RewardConfig(), rng)
        ending = np.isnan(alive) & state.terminated
        alive[ending] = np.where(state.end == End.DIED, 0, 1 - state.mortality_90d)[ending]
    treated = ward_of(cohort)(n, 77, lambda patients: np.full(len(patients), 12))
    there = 1 - treated.mortality_90d[treated.present]
    error = np.hypot(alive.std() / n**0.5, there.std() / len(there) ** 0.5)
    assert abs(alive.mean() - there.mean()) < 3 * error
    assert error < 0.02


def test_what_has_no_truth_is_refused(trajectories, cohort):
    with pytest.raises(ConfigError, match="no true value is known"):
        Truth(trajectories, gamma=GAMMA)
    same = replace(cohort.preprocessing, alignment="same_window")
    leaking = replace(cohort, manifest=replace(cohort.manifest, preprocessing=same))
    with pytest.raises(ConfigError, match="causal"):
        Truth(leaking, gamma=GAMMA)
    with pytest.raises(ConfigError, match="2 episodes"):
        TruthConfig(episodes=1)


def test_a_mean_is_told_with_its_interval():
    assert f"{Measured(0.277, 0.089, 0.4647):.2f}" == "0.28 [0.09, 0.46]"
    assert f"{Measured(0.0113, 0.005, 0.0175):.1%}" == "1.1% [0.5%, 1.8%]"
