"""``sepsis-gym benchmark agents``: train, score and rank agents on one cohort."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console
from tyro.conf import OmitArgPrefixes

from evaluation import EvaluationConfig, Results
from sepsis_gym.agent import Agent
from sepsis_gym.cli.evaluate import TRUTH_PATIENTS, score
from sepsis_gym.errors import ConfigError
from sepsis_gym.files import check_target
from sepsis_gym.trajectories import Trajectories
from world_models import load_world_model

_TRAINERS = ("torch", "d3rlpy", "stable-baselines3")
_Each = tuple[str, int | None]
"""An agent and the seed of its training, None where there is nothing to seed."""


@dataclass(frozen=True)
class _Setup:
    """What all agents of a benchmark share; travels to other machines."""

    cohort: Path
    out: Path
    world_model: str | None
    truth_patients: int
    config: EvaluationConfig


def benchmark_agents(
    cohort: Path,
    out: Path,
    agents: tuple[str, ...] = ("guideline", "greedy", "lookahead", "clinician", "bcq", "cql"),
    seeds: tuple[int, ...] = (0, 1, 2),
    world_model: str | None = "default",
    truth_patients: int = TRUTH_PATIENTS,
    leaderboard: Path | None = None,
    ray: bool = False,
    config: Annotated[EvaluationConfig, OmitArgPrefixes] = EvaluationConfig(),  # noqa: B008
) -> None:
    """Trains agents with several seeds, scores them and the constant baselines, and ranks them.

    Trained agents and scored rows are kept: run again after an interruption, it goes on. Over seeds
    the interquartile mean is told, with an interval that resamples seeds.

    Args:
        cohort: Folder written by ``sepsis-gym cohort``.
        out: Folder for the agents, the results and leaderboard.json.
        agents: Names of ``sepsis-gym agent list``, package.module:Class or FILE.py:Class.
        seeds: Of the trainings.
        world_model: Name or folder of the world model to plan in, and to measure returns in if the
            cohort has its scales; None for none.
        truth_patients: New patients that measure true values if the cohort is synthetic.
        leaderboard: File to enter the agents in as well.
        ray: Whether to train and score agents as Ray tasks, here or on the cluster that
            RAY_ADDRESS names, whose machines share ``cohort`` and ``out``.
        config: Settings of the evaluation.
    """
    from agents.registry import is_seeded
    from evaluation.leaderboard import as_table, entries, load_leaderboard, save_leaderboard

    if not seeds or len(set(seeds)) < len(seeds):
        raise ConfigError(f"seeds must be one or more different numbers, got {seeds}")
    if len({_short(name) for name in agents}) < len(agents):
        raise ConfigError(f"two agents have the same name: {', '.join(agents)}")
    check_target(out)
    if leaderboard is not None and leaderboard.exists():
        load_leaderboard(leaderboard)  # or fail now, not after hours
    setup = _Setup(cohort.resolve(), out.resolve(), world_model, truth_patients, config)
    each: list[_Each] = [(n, seed) for n in agents for seed in (seeds if is_seeded(n) else (None,))]
    if ray:
        _on_ray(setup, each)
    opened, results = _run(setup, each)
    results.save(out)
    ranked = entries(
        results,
        configs=_configs(opened),
        world_model=_described(world_model),
        versions={name: installed for name in _TRAINERS if (installed := _version(name))},
    )
    for file in (out / "leaderboard.json", *([leaderboard] if leaderboard else [])):
        save_leaderboard(ranked, file)
    Console(width=150).print(as_table(ranked))
    print(f"written to {out}; as a page: sepsis-gym report {out}")


def _run(
    setup: _Setup, each: Sequence[_Each], *, company: bool = True
) -> tuple[dict[str, Agent], Results]:
    """Trains and scores what is not there yet, and returns all of it."""
    trajectories = Trajectories.load(setup.cohort)
    opened = dict(_opened(setup, trajectories, *one) for one in each)
    model = None if setup.world_model is None else load_world_model(setup.world_model)
    results = score(
        trajectories,
        opened,
        setup.out,
        model=model,
        truth_patients=setup.truth_patients,
        config=setup.config,
        company=company,
    )
    return opened, results


def _on_ray(setup: _Setup, each: Sequence[_Each]) -> None:
    """Each agent and seed as a task of its own, which leaves agent and row where they are kept."""
    try:
        import ray
    except ImportError as error:
        raise ImportError('--ray needs Ray: pip install "sepsis-gym[ray]"') from error

    def train_and_score(one: _Each) -> None:
        _run(setup, [one], company=False)

    ray.init(ignore_reinit_error=True, log_to_driver=False)
    task = ray.remote(num_cpus=1)(train_and_score)
    ray.get([task.remote(one) for one in each])


def _opened(
    setup: _Setup, trajectories: Trajectories, name: str, seed: int | None
) -> tuple[str, Agent]:
    """The agent, trained if it is not there, and the name of its row.

    Raises:
        ConfigError: What is there was trained on another cohort, or in another world model.
    """
    from agents import config_type, load_agent, make_agent, train_agent
    from agents.policy import WORLD_MODEL
    from agents.registry import DESCRIPTION_FILE, needs_training, takes_world_model
    from evaluation import validation_value

    short = _short(name)
    if not needs_training(name):
        settings = {"model": setup.world_model} if takes_world_model(name) else {}
        return short, make_agent(name, **settings)
    label = short if seed is None else f"{short}/{seed}"
    folder = setup.out / "agents" / label
    if not (folder / DESCRIPTION_FILE).is_file():
        print(f"training {label}", flush=True)
        taken = config_type(name)
        plays = setup.world_model and "world_model" in {item.name for item in fields(taken)}
        config = taken(world_model=setup.world_model) if plays else taken()
        judge = validation_value(trajectories, gamma=setup.config.gamma)
        return label, train_agent(
            name, trajectories, folder, config=config, seed=seed or 0, score=judge
        )
    agent = load_agent(folder, trust_code=":" in name)
    own, present = getattr(agent, "provenance", {}), {"content_hash": trajectories.content_hash}
    if setup.world_model is not None:
        present[WORLD_MODEL] = load_world_model(setup.world_model).digest
    if any(own.get(what) not in (None, digest) for what, digest in present.items()):
        raise ConfigError(
            f"{folder}: was trained on another cohort or in another world model; delete it or "
            "name another out"
        )
    return label, agent


def _short(name: str) -> str:
    return name.rpartition(":")[2]


def _configs(opened: dict[str, Agent]) -> dict[str, dict[str, Any]]:
    """Settings by agent; of one that cannot be saved none are known."""
    saving: dict[str, Any] = {label.partition("/")[0]: agent for label, agent in opened.items()}
    return {n: a.to_record().config for n, a in saving.items() if hasattr(a, "to_record")}


def _described(world_model: str | None) -> str | None:
    if world_model is None:
        return None
    return f"{Path(world_model).name}, sha256 {load_world_model(world_model).digest[:16]}"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
