"""Agents by name: made, trained, written to a folder and read back."""

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from safetensors import SafetensorError
from safetensors.numpy import load, save

from agents.policy import AgentRecord, SavableAgent, TrainableAgent
from agents.training import ResumableAgent, Run
from sepsis_gym.agent import Agent, BatchAgent
from sepsis_gym.errors import CheckpointError, ConfigError, UnknownNameError
from sepsis_gym.files import check_target, whole_folder
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories

FORMAT_VERSION = 1
ENTRY_POINT_GROUP = "sepsis_gym.agents"
DESCRIPTION_FILE, WEIGHTS_FILE = "agent.json", "weights.safetensors"

_BUILT_IN = {
    "random": ("agents.baselines:RandomAgent", "draws uniformly from the 25 actions"),
    "no_treatment": ("agents.baselines:NoTreatmentAgent", "no fluid, no vasopressor"),
    "fixed_dose": ("agents.baselines:FixedDoseAgent", "one action for everybody (action=0-24)"),
    "guideline": ("agents.guideline:GuidelineAgent", "titration by SSC 2021; takes scales only"),
    "greedy": ("agents.planner:GreedyAgent", "best next step by the world model"),
    "lookahead": ("agents.planner:PlanningAgent", "mends the guideline in the world model"),
    "clinician": ("agents.clinician:ClinicianAgent", "behaviour cloning; needs training"),
    "boosted_clinician": ("agents.boosted:BoostedClinicianAgent", "the same by boosted trees"),
    "recurrent_clinician": ("agents.recurrent:RecurrentClinicianAgent", "the same with a memory"),
    "bc": ("agents.offline:BcAgent", "DiscreteBC by d3rlpy; needs training"),
    "bcq": ("agents.offline:BcqAgent", "DiscreteBCQ by d3rlpy; needs training"),
    "cql": ("agents.offline:CqlAgent", "DiscreteCQL by d3rlpy; needs training"),
    "dqn": ("agents.offline:DqnAgent", "DQN by d3rlpy, offline; needs training"),
    "double_dqn": ("agents.offline:DoubleDqnAgent", "double DQN, offline; needs training"),
    "ppo": ("agents.online:PpoAgent", "PPO by SB3 in a world model; needs training"),
    "recurrent_ppo": ("agents.online:RecurrentPpoAgent", "PPO with a memory; needs training"),
    "online_dqn": ("agents.online:OnlineDqnAgent", "DQN in a world model; needs training"),
    "qrdqn": ("agents.online:QrDqnAgent", "quantile DQN in a world model; needs training"),
    "wd3qne": ("agents.wd3qne:Wd3qneAgent", "DQN with clinicians' expertise; needs training"),
    "stacked": ("agents.stacked:StackedAgent", "an offline agent (of=...) that sees more steps"),
    "teacher": ("agents.llm.teacher:TeacherAgent", "a rule that simulates and refines in words"),
}


def available_agents() -> dict[str, str]:
    """Names of all agents, with a line about each; other packages' come by entry point."""
    return {name: about for name, (_, about) in _known().items()}


def make_agent(name: str, **settings: Any) -> Agent:
    """Makes an agent that needs no training.

    Args:
        name: One of :func:`available_agents`, ``package.module:Class`` or ``FILE.py:Class``.
        settings: What the class takes.

    Raises:
        UnknownNameError: There is no such agent.
        ConfigError: It needs training, or takes other settings.
    """
    found = _agent_class(name)
    if hasattr(found, "train"):
        raise ConfigError(f"agent {name!r} needs training: use train_agent or load_agent")
    try:
        inspect.signature(found).bind(**settings)
    except TypeError as error:
        raise ConfigError(f"agent {name!r}: {error}") from error
    return found(**settings)


def needs_training(name: str) -> bool:
    """Whether this agent comes from :func:`train_agent`, not from :func:`make_agent`.

    Raises:
        UnknownNameError: There is no such agent.
    """
    return hasattr(_agent_class(name), "train")


def is_seeded(name: str) -> bool:
    """Whether trainings with different seeds give different agents; if it says nothing, yes."""
    return needs_training(name) and bool(getattr(_agent_class(name), "seeded", True))


def takes_world_model(name: str) -> bool:
    """Whether :func:`make_agent` takes ``model``, the world model that the agent plans in."""
    return "model" in inspect.signature(_agent_class(name)).parameters


def train_agent(
    name: str,
    trajectories: Trajectories,
    out: str | os.PathLike[str] | None = None,
    *,
    config: Any = None,
    seed: int = 0,
    score: Callable[[BatchAgent], float] | None = None,
) -> Agent:
    """Trains an agent on the train and validation splits of a cohort.

    Agents with long trainings keep their state in ``out/.training`` and go on from it when the same
    call is made again after an interruption, and write curves to ``out/tensorboard``.

    Args:
        name: One of :func:`available_agents`, ``package.module:Class`` or ``FILE.py:Class``.
        trajectories: The whole cohort.
        out: Folder to save the agent in; nothing is written if not given.
        config: The agent's ``config_type``; its defaults if None.
        seed: Same seed, same data, same machine: same agent.
        score: Value of a policy by the validation split, such as
            :func:`evaluation.validation_value`; offline agents that learn values stop by it and
            keep the best weights, other agents do not ask it.

    Raises:
        UnknownNameError: There is no such agent, or a split is empty.
        ConfigError: It cannot be trained, or takes another config.
    """
    trainable = _trainable(name)
    if not 0 <= seed < 2**63:
        raise ConfigError(f"seed must be 0 or more (and fit 63 bits), got {seed}")
    settings = trainable.config_type() if config is None else config
    if not isinstance(settings, trainable.config_type):
        raise ConfigError(
            f"agent {name!r} takes a {trainable.config_type.__name__}, "
            f"got {type(settings).__name__}"
        )
    run = Run(None if out is None else check_target(out), score)
    if "run" in inspect.signature(trainable.train).parameters:
        resumable = cast(type[ResumableAgent], trainable)
        agent: SavableAgent = resumable.train(trajectories, settings, seed=seed, run=run)
    else:
        agent = trainable.train(trajectories, settings, seed=seed)
    if out is not None:
        save_agent(agent, out)
        run.finish()
    return agent


def config_type(name: str) -> type:
    """The class of a trainable agent's settings, a dataclass whose fields all have defaults.

    Raises:
        UnknownNameError: There is no such agent.
        ConfigError: It cannot be trained.
    """
    return _trainable(name).config_type


def save_agent(agent: SavableAgent, path: str | os.PathLike[str]) -> None:
    """Writes the agent's folder; an agent that was there is replaced, other files are left.

    ``agent.json`` holds a hash of the weights, so a half-replaced folder does not load.
    """
    described, weights = _describe(agent)
    with whole_folder(path) as temporary:
        (temporary / WEIGHTS_FILE).write_bytes(weights)
        (temporary / DESCRIPTION_FILE).write_text(json.dumps(described, indent=1))


def agent_digest(agent: SavableAgent) -> str:
    """SHA-256 of all that :func:`save_agent` would write."""
    described, _ = _describe(agent)  # which holds the hash of the weights
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


def _describe(agent: SavableAgent) -> tuple[dict[str, Any], bytes]:
    record = agent.to_record()
    weights = save(record.weights)
    described = {
        "format_version": FORMAT_VERSION,
        "agent": _name_of(type(agent)),
        "config": record.config,
        "preprocessing": record.preprocessing and record.preprocessing.to_dict(),
        "provenance": record.provenance,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    return described, weights


def load_agent(path: str | os.PathLike[str], *, trust_code: bool = False) -> Agent:
    """Reads a folder written by :func:`save_agent`.

    Args:
        path: The folder.
        trust_code: Whether a folder may name any class to import, not only a registered agent.

    Raises:
        CheckpointError: A file is missing or broken, or names a class that is not trusted.
        UnknownNameError: It is of an agent that is not installed here.
    """
    description, weights_file = Path(path) / DESCRIPTION_FILE, Path(path) / WEIGHTS_FILE
    for file in (description, weights_file):
        if not file.is_file():
            raise CheckpointError(f"{file}: no such file; is {path} an agent folder?")
    name, record, digest = _read_description(description)
    if name not in _known() and not trust_code:
        raise CheckpointError(
            f"{description}: names {name!r}, which is not registered here; "
            "pass trust_code=True if you trust the folder to run it"
        )
    found = cast(type[SavableAgent], _agent_class(name))
    content = weights_file.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise CheckpointError(f"{weights_file}: is not the file that {DESCRIPTION_FILE} describes")
    try:
        record.weights.update(load(content))
        return found.from_record(record)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: is no {name!r} agent: {error}") from error


def _read_description(file: Path) -> tuple[str, AgentRecord, str]:
    """Name, record without weights, and hash of the weights."""
    try:
        described = json.loads(file.read_text())
        version = described["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version {version} is not {FORMAT_VERSION}; train it again")
        preprocessing = described["preprocessing"]
        record = AgentRecord(
            config=described["config"],
            preprocessing=preprocessing and Preprocessing.from_dict(preprocessing),
            provenance=described["provenance"],
        )
        return described["agent"], record, described["weights_sha256"]
    except KeyError as error:
        raise CheckpointError(f"{file}: {error} is missing") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error


def _known() -> dict[str, tuple[str, str]]:
    """Path and description of every registered agent; built-in names cannot be taken over."""
    added = {
        entry.name: (entry.value, f"from {entry.dist.name if entry.dist else entry.value}")
        for entry in entry_points(group=ENTRY_POINT_GROUP)
    }
    return {**added, **_BUILT_IN}


def _name_of(agent_class: type) -> str:
    path = f"{agent_class.__module__}:{agent_class.__qualname__}"
    return next((name for name, (known, _) in _known().items() if known == path), path)


def _trainable(name: str) -> type[TrainableAgent]:
    found = _agent_class(name)
    if not hasattr(found, "train"):
        raise ConfigError(f"agent {name!r} needs no training: use make_agent")
    return cast(type[TrainableAgent], found)


def _agent_class(name: str) -> type[Agent]:
    known = _known()
    path = known[name][0] if name in known else name
    module, separator, attribute = path.rpartition(":")
    if not separator:
        raise UnknownNameError(
            f"no agent {name!r}; there are {', '.join(known)}, "
            "or give package.module:Class or FILE.py:Class"
        )
    try:
        found = getattr(
            _module_of_file(module) if module.endswith(".py") else import_module(module), attribute
        )
    except (ModuleNotFoundError, FileNotFoundError, AttributeError) as error:
        raise UnknownNameError(f"agent {name!r} cannot be found: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Agent)):
        raise ConfigError(f"agent {name!r}: {path} lacks reset, act or action_probabilities")
    return found


def _module_of_file(file: str) -> ModuleType:
    """The file's module, called by its path, so that its agents are found again by name."""
    path = str(Path(file).resolve())
    if path not in sys.modules:
        spec = spec_from_file_location(path, path)
        if spec is None or spec.loader is None:
            raise FileNotFoundError(path)
        module = sys.modules[path] = module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[path]
            raise
    return sys.modules[path]
