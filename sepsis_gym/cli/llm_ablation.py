"""What each stage of the curriculum brought: the table that ``llm train`` ends with."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from evaluation import EvaluationConfig
from evaluation.target import agent_probabilities
from evaluation.truth import Measured, TrueValue, Truth, TruthConfig, mean_over
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import Agent, Info
from sepsis_gym.dynamics import Treated
from sepsis_gym.trajectories import Trajectories
from world_models import ClinicalWorldModel

if TYPE_CHECKING:
    from agents.curriculum.rollout import Rollouts
    from agents.llm import LLMAgent, TransformersBackend

_AT_ONCE = 128
_CONFIDENCE = 0.95
_WIDTH = 140


@dataclass(frozen=True)
class StageScore:
    """A stage's model, with the simulator or alone.

    Attributes:
        agent: Its name.
        valid: Share of the logged test decisions that it made by valid calls alone; of the first
            some alone if none of those was.
        agreement: Share in which it gave the teacher's doses.
        value: What the world model expects of its doses beyond the guideline's, by the planner that
            reinforcement is paid by; None if no call is valid.
        value_gained: The same beyond the stage before, decision by decision; None if that gave
            no valid call.
        truth: Of new patients; None where none are to be had, or no call is valid.
        truth_gained: Their true value beyond that of the stage before.
    """

    agent: str
    valid: float
    agreement: float
    value: Measured | None
    value_gained: Measured | None = None
    truth: TrueValue | None = None
    truth_gained: Measured | None = None


@dataclass(frozen=True)
class Decided:
    """What a model decided in the n first logged states of the test stays, most often in all.

    Attributes:
        action: [n].
        valid: [n] whether by valid calls alone.
        value: [n] beyond the guideline's doses, as the world model expects.
    """

    action: NDArray[np.int64]
    valid: NDArray[np.float64]
    value: NDArray[np.float64]


class Repeating:
    """An agent that gives again what a model decided in logged states.

    Attributes:
        provenance: What made up the agent that decided.
    """

    def __init__(
        self, log: Trajectories, action: NDArray[np.int64], provenance: dict[str, Any]
    ) -> None:
        """Keeps the actions [decisions of the log]."""
        self.provenance = provenance
        stays = np.repeat(log.stays.stay_id, log.n_decisions).tolist()
        steps = np.concatenate([np.arange(n) for n in log.n_decisions]).tolist()
        self._given = dict(zip(zip(stays, steps, strict=True), action.tolist(), strict=True))

    def reset(self) -> None:
        """Needs nothing."""

    def act(self, observation: NDArray[np.float32], info: Info) -> int:
        """The action kept."""
        return self._given[info["stay_id"], info["step"]]

    def action_probabilities(
        self, observation: NDArray[np.float32], info: Info
    ) -> NDArray[np.float64]:
        """One-hot."""
        return np.asarray(np.eye(N_ACTIONS)[self.act(observation, info)])


class Ablation:
    """Measures one model after the other, each beside the stage before it in the same mode.

    Attributes:
        scores: So far; the clinicians and the rule that is the teacher come first.
    """

    def __init__(
        self,
        log: Trajectories,
        rollouts: "Rollouts",
        model: ClinicalWorldModel,
        teacher: Agent,
        out: Path,
        truth_patients: int,
    ) -> None:
        """Measures the clinicians and the teacher.

        Args:
            log: The cohort.
            rollouts: Hold every decision of its test stays, and ask greedily.
            model: World model to simulate in.
            teacher: The rule.
            out: Folder that keeps what was measured.
            truth_patients: New patients that measure true values if the cohort is synthetic.
        """
        self._log, self._rollouts, self._model = log.split("test"), rollouts, model
        self._out, self._patients = out, truth_patients
        self._truth: Truth | None = None
        if truth_patients and "synthetic" in log.manifest.config:
            settings = TruthConfig(truth_patients, truth_patients, confidence=_CONFIDENCE)
            self._truth = Truth(log, gamma=EvaluationConfig().gamma, config=settings)
        self.scores: list[StageScore] = []
        self._before: dict[bool, tuple[Decided, Treated | None]] = {}
        here = rollouts.situations
        self._observations = np.stack([each.observation for each in here])
        walked = agent_probabilities("teacher", teacher, self._log, model).probabilities
        self._taught = walked[self._log.is_decision].argmax(1)
        usual = self._truth.usual_one_by_one if self._truth else None
        self._score("clinicians", self._of(np.array([each.action for each in here])), usual)
        self._score("teacher", self._of(self._taught), self._treated("teacher", teacher))

    def _of(self, action: NDArray[np.int64]) -> Decided:
        value = self._rollouts.beyond_guideline(self._observations[: len(action)], action)
        return Decided(action, np.ones(len(action)), value)

    def add(
        self, name: str, backend: "TransformersBackend", agent: "LLMAgent", *, simulate: bool
    ) -> Agent | None:
        """Measures a model that decides as the agent does.

        Returns:
            What it decided in the logged test states, as an agent; None if no call was valid.
        """
        decided = Decided(**self._kept(f"{name}, decided", partial(self._ask, backend, simulate)))
        called = bool(decided.valid.any())
        treated = self._treated(name, agent) if called else None
        self._score(name, decided, treated, self._before.get(simulate))
        if not called:
            return None
        self._before[simulate] = decided, treated
        return Repeating(self._log, decided.action, agent.provenance)

    def _ask(self, backend: "TransformersBackend", simulate: bool) -> dict[str, Any]:
        n = len(self._rollouts.situations)
        loaded = backend.network, backend.tokenizer
        asked = [{"at": at, "simulate": simulate} for at in range(n)]
        parts: list[dict[str, Any]] = []
        for at in tqdm(range(0, n, _AT_ONCE), "decisions", disable=None):
            parts.append(self._rollouts.roll(loaded, asked[at : at + _AT_ONCE], 0))
            if not any(parts[0]["valid"]):  # one that cannot call says much, to no end
                break
        action, valid = (np.concatenate([p[name] for p in parts]) for name in ("action", "valid"))
        # the reward of a failed decision is no measure of what the fallback decided
        return {**vars(self._of(action)), "valid": valid}

    def _treated(self, name: str, agent: Agent) -> Treated | None:
        if self._truth is None:
            return None
        treat = partial(self._truth.treated_by, agent, model=self._model)
        return Treated(**self._kept(f"{name}, treated", lambda: vars(treat())))

    def _kept(self, name: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was measured before the run was stopped, or is now."""
        depends = [len(self._log), self._patients, self._model.digest]
        key = hashlib.sha256(json.dumps(depends).encode()).hexdigest()[:12]
        file = self._out / f"{name} {key}.npz"
        if not file.exists():
            fresh = file.with_suffix(".new.npz")
            np.savez(fresh, **measure())
            fresh.replace(file)
        with np.load(file) as arrays:
            return dict(arrays)

    def _score(
        self,
        name: str,
        decided: Decided,
        treated: Treated | None,
        before: tuple[Decided, Treated | None] | None = None,
    ) -> None:
        truth = gained = truth_gained = None
        if self._truth and treated:
            truth = self._truth.compare(treated, self._truth.usual_one_by_one)
        if before and decided.valid.any():
            gained = self._per_stay(decided.value - before[0].value)
            if self._truth and treated and before[1]:
                truth_gained = self._truth.compare(treated, before[1]).difference
        taught = self._taught[: len(decided.action)]
        score = StageScore(
            agent=name,
            valid=float(decided.valid.mean()),
            agreement=float((decided.action == taught).mean()),
            value=self._per_stay(decided.value) if decided.valid.any() else None,
            value_gained=gained,
            truth=truth,
            truth_gained=truth_gained,
        )
        self.scores.append(score)
        show(stages_table([score]))

    def _per_stay(self, values: NDArray[np.float64]) -> Measured:
        """Mean over the test decisions, whose interval takes stays as independent."""
        stay = np.repeat(np.arange(len(self._log)), self._log.n_decisions)
        tops = np.bincount(stay, values, minlength=len(self._log)).astype(float)
        return mean_over(tops, self._log.n_decisions.astype(float), _CONFIDENCE)


def stages_table(scores: Sequence[StageScore]) -> Table:
    """A row per stage and mode."""
    table = Table(
        *("Agent", "Valid", "As teacher", "Value in the world model", "beyond stage before"),
        *("True value", "beyond clinicians", "beyond stage before"),
        width=_WIDTH,
    )
    table.columns[0].no_wrap = True
    for score in scores:
        truth = score.truth
        table.add_row(
            score.agent,
            f"{score.valid:.1%}",
            f"{score.agreement:.1%}" if score.value else "-",  # else it is the fallback's
            _told(score.value),
            _told(score.value_gained),
            _told(truth.value if truth else None),
            _told(truth.difference if truth else None),
            _told(score.truth_gained),
        )
    return table


def show(*tables: Table) -> None:
    """Prints them as wide as they are, also where the output is a file."""
    for table in tables:
        Console(width=max(_WIDTH, Console().width)).print(table)


def _told(measured: Measured | None) -> str:
    if measured is None:
        return "-"
    return f"{measured.value:.3f}\n[{measured.low:.3f}, {measured.high:.3f}]"
