"""The offline learners on a task whose best action is known."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from agents import agent_digest, load_agent, train_agent
from agents.learner import OfflineConfig, QLearningConfig, Transitions
from agents.offline import BcConfig, BcqConfig, CqlConfig, D3rlpyAgent, _import_d3rlpy
from agents.wd3qne import Wd3qneAgent, Wd3qneConfig, _Learner, _q
from sepsis_gym.cohort.assemble import AssemblyConfig, RawCohort, assemble
from sepsis_gym.dynamics import End
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES, TYPICAL
from sepsis_gym.trajectories import Trajectories

torch = pytest.importorskip("torch")
pytest.importorskip("d3rlpy")

BEST = 20  # highest fluid level, no vasopressor
QUICK = {"n_steps": 30, "batch_size": 32, "hidden_units": (16,)}
CONFIGS: dict[str, type[OfflineConfig]] = {
    "bc": BcConfig,
    "bcq": BcqConfig,
    "cql": CqlConfig,
    "dqn": QLearningConfig,
    "double_dqn": QLearningConfig,
    "wd3qne": Wd3qneConfig,
}
ALL, BY_D3RLPY = list(CONFIGS), [name for name in CONFIGS if name != "wd3qne"]


@pytest.fixture(scope="module")
def fluid_task() -> Trajectories:
    """Lactate falls by 1 under more than 300 mL and no vasopressor, and rises by 1 otherwise."""
    n_stays, bins = 500, 9
    rng = np.random.default_rng(0)
    shape = (n_stays, bins)
    fluid = np.where(rng.random(shape) < 0.2, 0, rng.uniform(1, 400, shape))
    vasopressor = np.where(rng.random(shape) < 0.5, 0, rng.uniform(0.01, 1, shape))
    change = np.where((fluid > 300) & (vasopressor == 0), -1.0, 1.0)
    change[:, 0] = rng.uniform(10, 20, n_stays)
    raw = np.tile(TYPICAL, (*shape, 1))
    raw[..., FEATURE_INDEX["lactate"]] = change.cumsum(axis=1)
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
            raw=raw.reshape(-1, N_FEATURES),
            ventilated=np.zeros(n_stays * bins, bool),
            fluid_ml=fluid.ravel().astype(np.float32),
            norepinephrine_equivalent=vasopressor.ravel().astype(np.float32),
            sofa_24h=np.full(n_stays * bins, np.nan, np.float32),
        ),
        AssemblyConfig(),
        source="fluid task",
        credentialed=False,
    )


@pytest.mark.parametrize("name", ALL[1:])
def test_learns_the_best_action(fluid_task, name):
    config = CONFIGS[name](n_steps=800, learning_rate=3e-4, hidden_units=(64, 64))
    agent = train_agent(name, fluid_task, config=config)
    test = fluid_task.split("test")
    # the last decision pays the outcome, whatever is given
    counts = test.is_decision & ~test.terminated
    logged = (test.action[counts] == BEST).mean()
    chosen = (agent.batch_probabilities(test.observations()[counts]).argmax(axis=1) == BEST).mean()
    assert logged < 0.2
    assert chosen > 0.95


def test_bc_learns_what_is_given_most(fluid_task):
    """Half of the patients get no vasopressor, an eighth each of the other levels."""
    agent = train_agent("bc", fluid_task, config=BcConfig(n_steps=300, learning_rate=1e-3))
    test = fluid_task.split("test")
    chosen = agent.batch_probabilities(test.observations()[test.is_decision]).argmax(axis=1)
    assert (chosen % 5 == 0).mean() > 0.95


@pytest.mark.parametrize("name", ALL)
def test_saved_agent_is_the_same_and_needs_no_torch(trajectories, name, tmp_path):
    agent = train_agent(name, trajectories, tmp_path / name, config=CONFIGS[name](**QUICK), seed=4)
    observations = trajectories.observations()
    probabilities = agent.batch_probabilities(observations)
    assert set(np.unique(probabilities)) == {0.0, 1.0}
    assert np.array_equal(probabilities.sum(axis=1), np.ones(len(observations)))
    assert np.array_equal(
        load_agent(tmp_path / name).batch_probabilities(observations), probabilities
    )
    for row in range(10):
        alone = agent.action_probabilities(observations[row], {})
        assert np.array_equal(alone, probabilities[row])
        assert agent.act(observations[row], {}) == probabilities[row].argmax()
    code = (
        "import sys; from agents import load_agent; load_agent(sys.argv[1]); "
        "sys.exit('torch' in sys.modules or 'd3rlpy' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], check=False)
    assert done.returncode == 0


@pytest.mark.parametrize("name", BY_D3RLPY)
def test_numpy_policy_is_d3rlpys(trajectories, name, monkeypatch):
    kept = []
    make = D3rlpyAgent.learner.__func__

    def keep(agent_class, config, reward_scale):
        kept.append(make(agent_class, config, reward_scale))
        return kept[0]

    monkeypatch.setattr(D3rlpyAgent, "learner", classmethod(keep))
    agent = train_agent(name, trajectories, config=CONFIGS[name](**QUICK))
    observations = trajectories.observations()
    chosen = agent.batch_probabilities(observations).argmax(axis=1)
    assert np.array_equal(chosen, kept[0][0].algorithm.predict(observations))


def test_bcq_never_takes_what_the_imitator_finds_unlikely(trajectories):
    agent = train_agent("bcq", trajectories, config=BcqConfig(**QUICK))
    observations = trajectories.observations()
    logits = agent._networks["imitator"](observations)
    taken = agent.batch_probabilities(observations).argmax(axis=1)
    ratio = np.exp(logits[np.arange(len(taken)), taken] - logits.max(axis=1))
    assert ratio.min() >= 0.3
    strict = replace(agent.config, action_flexibility=1 - 1e-9)
    agent.config = strict
    imitated = agent.batch_probabilities(observations).argmax(axis=1)
    assert np.array_equal(imitated, logits.argmax(axis=1))


@pytest.mark.parametrize("name", ["bcq", "cql", "wd3qne"])
def test_same_seed_same_agent_and_nothing_left_behind(trajectories, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = CONFIGS[name](**QUICK)
    torch.manual_seed(123)
    stream, threads = torch.get_rng_state(), torch.get_num_threads()
    precision, numpy_stream = torch.get_float32_matmul_precision(), np.random.get_state()[1].copy()  # noqa: NPY002
    first, second, other = (
        train_agent(name, trajectories, config=config, seed=seed) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(first.weights[key], second.weights[key]) for key in first.weights)
    assert not all(np.array_equal(first.weights[key], other.weights[key]) for key in first.weights)
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.get_num_threads() == threads
    assert torch.get_float32_matmul_precision() == precision
    assert np.array_equal(np.random.get_state()[1], numpy_stream)  # noqa: NPY002
    assert os.listdir(tmp_path) == []


def test_importing_d3rlpy_prints_nothing():
    code = "from agents.offline import _import_d3rlpy; _import_d3rlpy()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_training_logs_nothing(trajectories, capfd):
    train_agent("cql", trajectories, config=CqlConfig(**QUICK))
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_provenance_tells_scale_and_losses(trajectories):
    agent = train_agent("cql", trajectories, config=CqlConfig(**QUICK))
    assert agent.provenance["reward_scale"] == 15.0
    assert set(agent.provenance["last_losses"]) == {"loss", "td_loss", "conservative_loss"}
    assert agent.provenance["d3rlpy"] == _import_d3rlpy().__version__


def test_wd3qne_values_the_next_state_as_published():
    """Mild patients by the clinician's next action, others by both networks' choices, weighted."""
    learner = _Learner(Wd3qneConfig(**QUICK), 15.0, 107)
    with torch.no_grad():
        for weights in learner.target.parameters():
            weights += 0.1 * torch.randn_like(weights)
    following = np.random.default_rng(0).normal(size=(2, 107)).astype(np.float32)
    data = {
        "following": torch.from_numpy(following),
        "next_action": torch.tensor([[3.0], [3.0]]),
        "sofa": torch.tensor([[3.0], [4.0]]),
    }
    with torch.no_grad():
        worth = learner._worth(data).numpy()[:, 0]
        own, target = (
            _q(net, data["following"]).numpy() for net in (learner.online, learner.target)
        )
    assert worth[0] == pytest.approx(target[0, 3])
    a, b = target[1, own[1].argmax()], target[1].max()
    weight = np.exp(15 * a) / (np.exp(15 * a) + np.exp(15 * b))
    assert worth[1] == pytest.approx(weight * a + (1 - weight) * b)
    assert a != b


def test_wd3qne_acts_as_its_network_does(trajectories):
    learner, _ = Wd3qneAgent.learner(Wd3qneConfig(**QUICK), 1.0)
    provenance = {"seed": 0}
    agent = Wd3qneAgent(learner.config, learner.weights(), trajectories.preprocessing, provenance)
    shown = trajectories.observations()
    with torch.no_grad():
        expected = _q(learner.online, torch.from_numpy(shown)).numpy().argmax(axis=1)
    assert np.array_equal(agent.batch_probabilities(shown).argmax(axis=1), expected)


def test_transitions_are_those_of_the_log(trajectories):
    data = Transitions.of(trajectories, 15.0, trajectories.observations())
    rows = np.flatnonzero(trajectories.is_decision)
    shown = trajectories.observations()
    assert np.array_equal(data.observation, shown[rows])
    assert np.array_equal(data.following, shown[rows + 1])
    assert data.reward[:, 0] == pytest.approx(trajectories.reward[rows] / 15)
    last = data.terminal[:, 0] == 1
    assert last.sum() == len(trajectories)
    assert np.array_equal(data.next_action[~last, 0], trajectories.action[rows + 1][~last])
    assert np.array_equal(data.sofa[:, 0], trajectories.sofa[rows])


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("scored", [False, True])
@pytest.mark.parametrize("name", ["cql", "wd3qne"])
def test_interrupted_and_resumed_is_uninterrupted(
    trajectories, name, scored, tmp_path, monkeypatch
):
    config = CONFIGS[name](**{**QUICK, "check_interval": 10, "target_update_interval": 7})
    scores: list[float] = []

    def score(agent):
        # best at the second of three looks, so that a resumed run must remember the best weights
        scores.append(float(agent.weights[next(iter(agent.weights))][0, 0]))
        return -abs(len(scores) - 2.0)

    def train(folder):
        del scores[1 if folder.exists() else 0 :]
        return train_agent(
            name, trajectories, folder, config=config, seed=3, score=score if scored else None
        )

    whole = train(tmp_path / "whole")
    kind, done = type(type(whole).learner(config, 1.0)[0]), []
    original = kind.update

    def stop_in_the_second_stretch(self, batch):
        done.append(1)
        if len(done) == 15:
            raise _StoppedError
        return original(self, batch)

    monkeypatch.setattr(kind, "update", stop_in_the_second_stretch)
    with pytest.raises(_StoppedError):
        train(tmp_path / "broken")
    assert (tmp_path / "broken" / ".training" / "state.pt").is_file()
    resumed = train(tmp_path / "broken")
    assert len(done) == 15 + 20  # the first 10 are not done again
    assert agent_digest(resumed) == agent_digest(whole)
    assert not (tmp_path / "broken" / ".training").exists()
    assert list((tmp_path / "broken" / "tensorboard").iterdir())
    if scored:
        assert resumed.provenance["best_update"] == 20


def test_a_state_of_another_training_is_not_gone_on_from(trajectories, tmp_path, monkeypatch):
    config = CqlConfig(**{**QUICK, "check_interval": 10})
    fresh = train_agent("cql", trajectories, config=config, seed=2)
    monkeypatch.setattr("agents.registry.save_agent", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        train_agent("cql", trajectories, tmp_path / "a", config=config, seed=1)
    assert (tmp_path / "a" / ".training" / "state.pt").is_file()
    monkeypatch.undo()
    other = train_agent("cql", trajectories, tmp_path / "a", config=config, seed=2)
    assert agent_digest(other) == agent_digest(fresh)
    (tmp_path / "a" / ".training").mkdir()
    (tmp_path / "a" / ".training" / "state.pt").write_bytes(b"damaged")
    again = train_agent("cql", trajectories, tmp_path / "a", config=config, seed=2)
    assert agent_digest(again) == agent_digest(fresh)


def test_stops_when_the_score_no_longer_rises(trajectories):
    falling = iter(range(0, -100, -1))
    config = CqlConfig(**{**QUICK, "n_steps": 1000, "check_interval": 10, "patience": 3})
    agent = train_agent("cql", trajectories, config=config, score=lambda _: next(falling))
    assert agent.provenance["updates"] == 40
    assert agent.provenance["best_update"] == 10
    assert agent.provenance["validation_score"] == 0.0


def test_bc_is_not_chosen_by_a_score(trajectories):
    def score(_):
        raise AssertionError

    assert (
        "best_update"
        not in train_agent("bc", trajectories, config=BcConfig(**QUICK), score=score).provenance
    )


def test_divergence_is_no_agent(trajectories):
    with pytest.raises(ConfigError, match="not finite"):
        train_agent("cql", trajectories, config=CqlConfig(**QUICK, learning_rate=1e30))


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (CqlConfig, {"n_steps": 0}, "n_steps must be positive"),
        (CqlConfig, {"gamma": 1.5}, "gamma"),
        (CqlConfig, {"hidden_units": ()}, "hidden_units"),
        (CqlConfig, {"alpha": -1}, "alpha"),
        (CqlConfig, {"check_interval": 0}, "check_interval"),
        (CqlConfig, {"threads": 0}, "threads"),
        (Wd3qneConfig, {"head_units": 0}, "head_units"),
        (BcqConfig, {"action_flexibility": 1.0}, "action_flexibility"),
        (BcqConfig, {"imitation_penalty": -0.1}, "imitation_penalty"),
    ],
)
def test_config_is_checked(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)
