"""Names, folders, and what is refused."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from agents import (
    AgentRecord,
    BatchPolicy,
    available_agents,
    load_agent,
    make_agent,
    registry,
    save_agent,
    train_agent,
)
from agents.clinician import ClinicianConfig
from agents.policy import one_hot
from sepsis_gym.agent import BatchAgent
from sepsis_gym.errors import CheckpointError, ConfigError, UnknownNameError
from sepsis_gym.patients import OBSERVATION_SIZE

SHOWN = np.random.default_rng(0).normal(size=(9, OBSERVATION_SIZE)).astype(np.float32)
HERE = f"{__name__}:AlwaysSeven"


class AlwaysSeven(BatchPolicy):
    """A third party's agent."""

    def batch_probabilities(self, observations):
        return one_hot(np.full(len(observations), 7))

    def to_record(self) -> AgentRecord:
        return AgentRecord()

    @classmethod
    def from_record(cls, record: AgentRecord):
        return cls(**record.config)


@pytest.fixture(scope="module")
def clinician_folder(trajectories, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("agents") / "clinician"
    train_agent("clinician", trajectories, folder, config=ClinicianConfig(max_epochs=2))
    return folder


@pytest.fixture
def folder(clinician_folder, tmp_path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(clinician_folder, tmp_path / "clinician"))


def edit(folder: Path, **changes) -> None:
    file = folder / "agent.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_every_built_in_agent_is_listed_with_a_line():
    assert {"random", "no_treatment", "fixed_dose", "clinician", "bcq", "cql"} <= set(
        available_agents()
    )
    assert all(available_agents().values())


def test_unknown_name_lists_the_names():
    with pytest.raises(UnknownNameError, match=r"no agent 'bqc'; there are random, .*bcq"):
        make_agent("bqc")
    with pytest.raises(UnknownNameError, match="no_such_module"):
        make_agent("no_such_module:Agent")
    with pytest.raises(UnknownNameError, match="NoSuchAgent"):
        make_agent("agents.baselines:NoSuchAgent")


def test_wrong_use_is_refused(trajectories):
    with pytest.raises(ConfigError, match="needs training"):
        make_agent("bcq")
    with pytest.raises(ConfigError, match="needs no training"):
        train_agent("random", trajectories)
    with pytest.raises(ConfigError, match="unexpected keyword argument 'dose'"):
        make_agent("fixed_dose", action=3, dose=3)
    with pytest.raises(ConfigError, match="takes a ClinicianConfig, got dict"):
        train_agent("clinician", trajectories, config={})
    with pytest.raises(ConfigError, match="lacks reset"):
        make_agent("pathlib:Path")


@pytest.mark.parametrize(
    ("name", "settings"),
    [("random", {"seed": 2}), ("no_treatment", {}), ("fixed_dose", {"action": 9})],
)
def test_untrained_agents_survive_the_disk(name, settings, tmp_path):
    agent = make_agent(name, **settings)
    save_agent(agent, tmp_path / "new" / name)
    loaded = load_agent(tmp_path / "new" / name)
    assert type(loaded) is type(agent)
    assert np.array_equal(loaded.batch_probabilities(SHOWN), agent.batch_probabilities(SHOWN))
    assert [loaded.act(SHOWN[0], {}) for _ in range(20)] == [
        agent.act(SHOWN[0], {}) for _ in range(20)
    ]


def test_trained_agent_survives_the_disk(trajectories, tmp_path):
    agent = train_agent(
        "clinician", trajectories, tmp_path / "a", config=ClinicianConfig(max_epochs=2), seed=3
    )
    loaded = load_agent(tmp_path / "a")
    assert isinstance(loaded, BatchAgent)
    assert np.array_equal(loaded.batch_probabilities(SHOWN), agent.batch_probabilities(SHOWN))
    assert loaded.preprocessing == trajectories.preprocessing
    assert loaded.config == agent.config
    assert loaded.provenance["content_hash"] == trajectories.content_hash
    save_agent(loaded, tmp_path / "b")
    for name in ("agent.json", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_saving_again_replaces_the_agent_and_nothing_else(folder):
    (folder / "notes.txt").write_text("mine")
    save_agent(make_agent("no_treatment"), folder)
    assert load_agent(folder).act(SHOWN[0], {}) == 0
    assert sorted(path.name for path in folder.iterdir()) == [
        "agent.json",
        "notes.txt",
        "weights.safetensors",
    ]
    assert [path.name for path in folder.parent.iterdir()] == ["clinician"]


def test_failed_saving_leaves_the_old_agent(folder, monkeypatch):
    before = load_agent(folder).batch_probabilities(SHOWN)
    monkeypatch.setattr(registry.json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_agent(make_agent("no_treatment"), folder)
    assert np.array_equal(load_agent(folder).batch_probabilities(SHOWN), before)
    assert [path.name for path in folder.parent.iterdir()] == ["clinician"]


@pytest.mark.parametrize("name", ["agent.json", "weights.safetensors"])
def test_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=rf"{name}: no such file"):
        load_agent(folder)


def test_broken_description_is_named(folder):
    whole = (folder / "agent.json").read_text()
    (folder / "agent.json").write_text(whole[:200])
    with pytest.raises(CheckpointError, match=r"agent\.json: cannot be read"):
        load_agent(folder)
    (folder / "agent.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"agent\.json: cannot be read"):
        load_agent(folder)
    (folder / "agent.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"agent\.json: 'format_version' is missing"):
        load_agent(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "format_version 99 is not 1"),
        ({"preprocessing": {"step_hours": 4}}, "cannot be read|is missing"),
        ({"preprocessing": None}, "preprocessing is missing"),
        ({"config": {"no_such_setting": 1}}, "no_such_setting"),
        ({"config": {"patience": -1}}, "patience must be positive"),
        ({"provenance": {}}, "seed"),
        ({"agent": "bcq"}, "is no 'bcq' agent"),
        ({"agent": "os:PathLike"}, "not registered here"),
    ],
)
def test_wrong_description_is_refused(folder, change, message):
    edit(folder, **change)
    with pytest.raises(CheckpointError, match=message):
        load_agent(folder)


def test_weights_of_another_agent_are_refused(folder):
    weights = folder / "weights.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[-1] ^= 1
    weights.write_bytes(flipped)
    with pytest.raises(CheckpointError, match=r"weights\.safetensors: is not the file"):
        load_agent(folder)


def test_third_party_by_path_is_loaded_only_if_trusted(tmp_path):
    agent = make_agent(HERE)
    assert agent.act(SHOWN[0], {}) == 7
    save_agent(agent, tmp_path / "seven")
    with pytest.raises(CheckpointError, match="trust_code"):
        load_agent(tmp_path / "seven")
    assert load_agent(tmp_path / "seven", trust_code=True).act(SHOWN[0], {}) == 7


def test_third_party_by_entry_point(tmp_path, monkeypatch):
    class Entry:
        name, value, dist = "seven", HERE, None

    monkeypatch.setattr(registry, "entry_points", lambda group: [Entry])
    assert "seven" in available_agents()
    agent = make_agent("seven")
    save_agent(agent, tmp_path / "seven")
    assert json.loads((tmp_path / "seven" / "agent.json").read_text())["agent"] == "seven"
    assert load_agent(tmp_path / "seven").act(SHOWN[0], {}) == 7


def test_the_package_called_agents_is_ours() -> None:
    # openai-agents installs a top-level package of the same name
    import agents

    assert Path(agents.__file__).parents[1] == Path(__file__).parents[2]
