"""Scores agents one by one and keeps each row, so that a run that was stopped goes on."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evaluation import EvaluationConfig, Results
from evaluation.answer_store import AnswerStore
from evaluation.evaluate import Evaluation
from evaluation.propensities import Propensities
from evaluation.results import Row
from evaluation.row_store import RowStore
from evaluation.seeds import over_seeds
from sepsis_gym.agent import Agent, ConcurrentAgent
from sepsis_gym.envs import SepsisVectorEnv
from sepsis_gym.trajectories import Trajectories
from world_models import ClinicalWorldModel

if TYPE_CHECKING:
    from evaluation.truth import Truth

_PACKAGES = ("sepsis_gym", "world_models", "agents", "evaluation")
_VERSIONS = ("sepsis-gym", "numpy", "scikit-learn", "scipy")
_ANSWERS_DEPEND_ON = ("cohort", "world_model", "code")
_SHOWN = ("dr", "wis", "wpdis")


def score_one_by_one(
    agents: Mapping[str, Agent],
    trajectories: Trajectories,
    out: Path,
    config: EvaluationConfig,
    *,
    model: ClinicalWorldModel | None,
    env: SepsisVectorEnv | None,
    truth_patients: int,
    retry_failed: bool,
    known: Propensities | None,
) -> Results:
    """Scores agents, showing each row as it comes; kept rows are not scored again.

    Args:
        agents: By name.
        trajectories: The cohort.
        out: Folder whose ``rows`` holds what is kept.
        config: Settings.
        model: World model to simulate with.
        env: Where to measure the agents' return as well.
        truth_patients: New patients that measure true values if the cohort is synthetic.
        retry_failed: Whether stays that an agent failed to answer before are asked again.
        known: The clinicians' true probabilities, in place of the fitted behavior policy.
    """
    evaluation = Evaluation(trajectories, config, model=model, env=env, known=known)
    for name, agent in agents.items():
        evaluation.check(name, agent)
    truth = _truth(trajectories, config, truth_patients)
    shared = {
        "cohort": trajectories.content_hash,
        "config": asdict(config),
        "world_model": model and model.digest,
        "truth_patients": truth_patients,
        "propensities": known and known.digest,
        "code": _digest_of_code(),
    }
    store = RowStore(out / "rows", shared)
    rows = [evaluation.clinicians()]
    if truth:
        rows = [replace(rows[0], truth=truth.clinicians)]
    _show(rows[0])
    for name, agent in agents.items():
        provenance = dict(getattr(agent, "provenance", {}))
        digest = _agent_digest(agent, provenance)
        row = store.read(name, digest) if digest else None
        _show(row, "kept") if row else None
        if row is None:
            kept = None
            if digest and isinstance(agent, ConcurrentAgent):
                about = {what: shared[what] for what in _ANSWERS_DEPEND_ON}
                about |= {"agent": digest, "provenance": provenance}
                kept = _kept_answers(out / "rows", about, retry_failed)
            row = replace(evaluation.row(name, agent, kept), provenance=provenance)
            if truth:
                true = truth.value(agent, softening=row.softening, model=model)
                row = replace(row, truth=true)
            if digest:
                store.write(row, digest)
            _show(row)
        rows.append(row)
    return replace(
        evaluation.results(rows),
        versions={package: version(package) for package in _VERSIONS},
        seeds=over_seeds(rows, confidence=config.confidence),
    )


def _truth(trajectories: Trajectories, config: EvaluationConfig, patients: int) -> "Truth | None":
    if not patients or "synthetic" not in trajectories.manifest.config:
        return None
    from evaluation.truth import Truth, TruthConfig

    single = min(patients, TruthConfig.single_episodes)
    settings = TruthConfig(patients, single, confidence=config.confidence)
    return Truth(trajectories, gamma=config.gamma, config=settings)


def _show(row: Row, note: str = "") -> None:
    estimates = {"mean return": row.estimates.get("mean_return")}
    estimates |= {name.upper(): row.estimates.get(name) for name in _SHOWN}
    told = [f"{n} {e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" for n, e in estimates.items() if e]
    told += [f"ESS {row.weights.ess:.1f}"] if row.weights else []
    told += [f"truly {row.truth.value.value:.2f}"] if row.truth else []
    print(f"{row.policy}: {', '.join(told)}; {row.trust}{note and f' ({note})'}", flush=True)


def _kept_answers(folder: Path, about: Mapping[str, Any], retry_failed: bool) -> AnswerStore:
    """An agent's answers stay by stay, for one that takes long to ask."""
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:20]
    return AnswerStore(folder / f"{key}.jsonl", about, retry_failed=retry_failed)


def _agent_digest(agent: Agent, provenance: Mapping[str, Any]) -> str | None:
    """What the agent's row is kept under; None for an agent that nothing can tell apart."""
    from agents import agent_digest

    saving: Any = agent
    if hasattr(agent, "to_record"):
        return agent_digest(saving)
    return json.dumps(provenance, sort_keys=True) if provenance else None


def _digest_of_code() -> str:
    """Another version of the code may score otherwise."""
    digest, root = hashlib.sha256(), Path(__file__).parents[2]
    for package in _PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(file.read_bytes())
    return digest.hexdigest()
