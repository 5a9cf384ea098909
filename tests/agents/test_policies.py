"""Baselines, behaviour cloning, the numpy networks, and the check of preprocessing."""

from dataclasses import replace

import numpy as np
import pytest

from agents import check_preprocessing, make_agent, train_agent
from agents.clinician import ClinicianConfig
from agents.network import Network
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import BatchAgent
from sepsis_gym.cohort.assemble import AssemblyConfig, RawCohort, assemble
from sepsis_gym.dynamics import End
from sepsis_gym.errors import ConfigError, InvalidActionError, UnknownNameError
from sepsis_gym.features import TYPICAL
from sepsis_gym.patients import OBSERVATION_SIZE
from sepsis_gym.trajectories import Trajectories

QUICK = ClinicianConfig(max_epochs=3)


def observations(n: int = 7, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, OBSERVATION_SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def rule_followers() -> Trajectories:
    """300 stays whose ventilated patients always get vasopressors, the others never; no fluid."""
    n_stays, bins = 300, 7
    rng = np.random.default_rng(1)
    n_rows = n_stays * bins
    ventilated = rng.random(n_rows) < 0.5
    dose = np.zeros(n_rows, np.float32)
    dose[1:] = np.where(ventilated[:-1], rng.uniform(0.01, 1, n_rows - 1), 0)
    return assemble(
        RawCohort(
            stays={
                "stay_id": np.arange(n_stays),
                "subject_id": np.arange(n_stays),
                "age": np.full(n_stays, 60, np.float32),
                "male": np.ones(n_stays, bool),
                "charlson": np.zeros(n_stays, np.float32),
                "died_in_hospital": np.zeros(n_stays, bool),
                "died_90d": np.zeros(n_stays, bool),
                "end": np.full(n_stays, End.DISCHARGED, np.int8),
            },
            offsets=np.arange(n_stays + 1) * bins,
            raw=np.tile(TYPICAL, (n_rows, 1)),
            ventilated=ventilated,
            fluid_ml=np.zeros(n_rows, np.float32),
            norepinephrine_equivalent=dose,
            sofa_24h=np.full(n_rows, np.nan, np.float32),
        ),
        AssemblyConfig(),
        source="rule followers",
        credentialed=False,
    )


def test_random_is_uniform_and_repeats_with_its_seed():
    agent = make_agent("random", seed=3)
    assert isinstance(agent, BatchAgent)
    assert agent.batch_probabilities(observations()) == pytest.approx(np.full((7, N_ACTIONS), 0.04))
    twin, other = make_agent("random", seed=3), make_agent("random", seed=4)
    observation = observations(1)[0]
    drawn = [agent.act(observation, {}) for _ in range(200)]
    assert drawn == [twin.act(observation, {}) for _ in range(200)]
    assert drawn != [other.act(observation, {}) for _ in range(200)]
    assert set(drawn) <= set(range(N_ACTIONS))
    assert len(set(drawn)) > 15


def test_reset_lets_the_random_stream_run_on():
    agent, twin = make_agent("random", seed=0), make_agent("random", seed=0)
    observation = observations(1)[0]
    unbroken = [twin.act(observation, {}) for _ in range(20)]
    first = [agent.act(observation, {}) for _ in range(10)]
    agent.reset()
    assert first + [agent.act(observation, {}) for _ in range(10)] == unbroken


@pytest.mark.parametrize(
    ("name", "settings", "action"),
    [("no_treatment", {}, 0), ("fixed_dose", {"action": 5}, 5), ("fixed_dose", {"action": 24}, 24)],
)
def test_constant_agents_take_one_action(name, settings, action):
    agent = make_agent(name, **settings)
    expected = np.zeros((7, N_ACTIONS))
    expected[:, action] = 1
    assert np.array_equal(agent.batch_probabilities(observations()), expected)
    assert agent.act(observations(1)[0], {}) == action


def test_fixed_dose_refuses_an_action_outside_the_grid():
    with pytest.raises(InvalidActionError, match="25"):
        make_agent("fixed_dose", action=25)


@pytest.mark.parametrize("name", ["clinician", "boosted_clinician"])
def test_clinician_learns_whom_clinicians_treat(rule_followers, name):
    agent = train_agent(name, rule_followers)
    test = rule_followers.split("test")
    probabilities = agent.batch_probabilities(test.observations()[test.is_decision])
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(probabilities)), abs=1e-12)
    pressor = probabilities[:, 1:5].sum(axis=1)
    ventilated = test.ventilated[test.is_decision]
    assert pressor[ventilated].min() > 0.9
    assert pressor[~ventilated].max() < 0.1


@pytest.mark.parametrize("name", ["clinician", "boosted_clinician"])
def test_clinician_gives_unseen_actions_at_least_their_share(rule_followers, name):
    agent = train_agent(name, rule_followers)
    train = rule_followers.split("train")
    n_decisions = int(train.is_decision.sum())
    assert not (train.action >= 5).any()
    unseen = agent.batch_probabilities(observations())[:, 5:]
    # add-one smoothing: an unseen action counts once among n + 25; 2% of that is mixed in
    assert unseen.min() >= 0.02 / (n_decisions + N_ACTIONS) * (1 - 1e-6)


def test_clinician_acts_by_its_probabilities(trajectories):
    agent = train_agent("clinician", trajectories, config=QUICK)
    observation = observations(1)[0]
    probabilities = agent.action_probabilities(observation, {})
    drawn = np.bincount([agent.act(observation, {}) for _ in range(4000)], minlength=N_ACTIONS)
    assert drawn / 4000 == pytest.approx(probabilities, abs=0.03)


def test_clinician_is_the_same_with_the_same_seed(trajectories):
    agent, twin = (train_agent("clinician", trajectories, config=QUICK, seed=5) for _ in "ab")
    other = train_agent("clinician", trajectories, config=QUICK, seed=6)
    shown = observations()
    assert np.array_equal(agent.batch_probabilities(shown), twin.batch_probabilities(shown))
    assert not np.array_equal(agent.batch_probabilities(shown), other.batch_probabilities(shown))


def test_clinician_keeps_the_best_epoch(trajectories):
    short, long = (
        train_agent("clinician", trajectories, config=ClinicianConfig(max_epochs=n)).provenance
        for n in (1, 60)
    )
    assert long["validation_log_loss"] <= short["validation_log_loss"]


def test_clinician_needs_a_validation_split(trajectories):
    with pytest.raises(UnknownNameError, match="validation split"):
        train_agent("clinician", trajectories.split("train"), config=QUICK)


def test_clinician_config_is_checked():
    with pytest.raises(ConfigError, match="patience"):
        ClinicianConfig(patience=0)
    with pytest.raises(ConfigError, match="marginal_share"):
        ClinicianConfig(marginal_share=0)


def test_network_by_hand():
    network = Network(
        (
            (np.array([[1, -1]], np.float32), np.array([0, 1], np.float32)),
            (np.array([[2], [10]], np.float32), np.array([0.5], np.float32)),
        )
    )
    # x = 3: hidden relu(3, -2) = (3, 0), output 6.5; x = 0: hidden (0, 1), output 10.5
    assert network(np.array([[3], [0]], np.float32)).tolist() == [[6.5], [10.5]]
    again = Network.from_weights(network.to_weights("q"), "q", (1, 1))
    assert again(np.array([[3]], np.float32)).tolist() == [[6.5]]


def test_network_refuses_what_does_not_fit():
    weight, bias = np.ones((2, 3), np.float32), np.zeros(3, np.float32)
    with pytest.raises(ConfigError, match="do not fit"):
        Network(((weight, bias), (weight, bias)))
    with pytest.raises(ConfigError, match="not finite"):
        Network(((weight * np.nan, bias),))
    with pytest.raises(ConfigError, match=r"q\.0\.weight is missing"):
        Network.from_weights({}, "q", (2, 3))
    with pytest.raises(ConfigError, match=r"q maps \(2, 3\), expected \(2, 4\)"):
        Network.from_weights({"q.0.weight": weight, "q.0.bias": bias}, "q", (2, 4))


def test_check_preprocessing_names_what_differs(trajectories):
    own = trajectories.preprocessing
    agent = train_agent("clinician", trajectories, config=QUICK)
    check_preprocessing(agent, own)
    with pytest.raises(ConfigError, match="step_hours differ"):
        check_preprocessing(agent, replace(own, step_hours=2))
    other_scale = (2 * own.scale[0], *own.scale[1:])
    with pytest.raises(ConfigError, match="scale differ"):
        check_preprocessing(agent, replace(own, scale=other_scale))
    check_preprocessing(make_agent("random"), replace(own, step_hours=2))
