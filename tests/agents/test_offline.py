"""BCQ and CQL on a task whose best action is known."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from agents import load_agent, train_agent
from agents.offline import BcqConfig, CqlConfig, OfflineConfig, _import_d3rlpy
from sepsis_gym.cohort.assemble import AssemblyConfig, RawCohort, assemble
from sepsis_gym.dynamics import End
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES, TYPICAL
from sepsis_gym.trajectories import Trajectories

torch = pytest.importorskip("torch")
pytest.importorskip("d3rlpy")

BEST = 20  # highest fluid level, no vasopressor
QUICK = {"n_steps": 30, "batch_size": 32, "hidden_units": (16,)}
CONFIGS: dict[str, type[OfflineConfig]] = {"bcq": BcqConfig, "cql": CqlConfig}


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


@pytest.mark.parametrize("name", ["bcq", "cql"])
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


@pytest.mark.parametrize("name", ["bcq", "cql"])
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


@pytest.mark.parametrize("name", ["bcq", "cql"])
def test_numpy_policy_is_d3rlpys(trajectories, name, monkeypatch):
    kept = []
    module = sys.modules["agents.offline"]
    update = module._update

    def keep(d3rlpy, algorithm, *rest):
        kept.append(algorithm)
        return update(d3rlpy, algorithm, *rest)

    monkeypatch.setattr(module, "_update", keep)
    agent = train_agent(name, trajectories, config=CONFIGS[name](**QUICK))
    observations = trajectories.observations()
    chosen = agent.batch_probabilities(observations).argmax(axis=1)
    assert np.array_equal(chosen, kept[0].predict(observations))


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


@pytest.mark.parametrize("name", ["bcq", "cql"])
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
    assert not np.array_equal(first.weights["q.0.weight"], other.weights["q.0.weight"])
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
        (BcqConfig, {"action_flexibility": 1.0}, "action_flexibility"),
        (BcqConfig, {"imitation_penalty": -0.1}, "imitation_penalty"),
    ],
)
def test_config_is_checked(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)
