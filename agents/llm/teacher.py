"""A rule that proposes, simulates and refines in the dialogue of a language model.

A baseline for language models, and the source of dialogues for one to imitate: it decides by
nothing but what the dialogue says, so that whoever reads along could have decided so too.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from agents.baselines import NoTreatmentAgent
from agents.guideline import GuidelineConfig
from agents.llm.agent import LLMAgent
from agents.llm.backend import Message, Reply, Sampling, ToolCall
from agents.llm.prompt import (
    FIO2_HIGH,
    LACTATE_HIGH_MMOL_L,
    MAP_TARGET_MMHG,
    MAX_CANDIDATES,
    OUTSIDE,
)
from agents.policy import AgentRecord
from sepsis_gym.actions import N_LEVELS
from sepsis_gym.dynamics import Simulator
from sepsis_gym.errors import AgentReplyError

WEIGHED = "Weighed by risk, MAP and doses."
COMPARE = " Compare the guided treatment with what runs and an alternative."
Doses = tuple[int, int]
"""Fluid level, vasopressor level."""
_WEAN_MMHG = GuidelineConfig().map_wean_mmhg
_RISK_PER_MMHG = 0.01  # a MAP of 60 instead of 65 weighs as much as 5 points of 90-day risk
_RISK_PER_LEVEL = 0.002  # of two treatments that promise the same, the lesser
_RUNNING = re.compile(r"^Running: .*\(level (\d)\), .*\(level (\d)\)$", re.MULTILINE)
_VALUE = r"^- {} ([\d.]+)"
_NUMBER = re.compile(r"[\d.]+")


@dataclass(frozen=True)
class _Patient:
    """What the rule reads of the present state; None where it is not known."""

    running: Doses
    map_mmhg: float | None
    lactate: float | None
    fio2: float | None

    @classmethod
    def read(cls, text: str) -> Self:
        running = _RUNNING.search(text)
        if running is None:
            raise AgentReplyError("the teacher cannot read which treatment is running")
        named = ("meanbp", "lactate", "fio2")
        found = (re.search(_VALUE.format(name), text, re.MULTILINE) for name in named)
        known = (float(value[1]) if value else None for value in found)
        return cls((int(running[1]), int(running[2])), *known)

    @property
    def low(self) -> bool:
        return self.map_mmhg is not None and self.map_mmhg < MAP_TARGET_MMHG

    @property
    def hypoperfused(self) -> bool:
        return self.low or (self.lactate is not None and self.lactate > LACTATE_HIGH_MMOL_L)

    @property
    def enough_fluid(self) -> bool:
        return self.fio2 is not None and self.fio2 >= FIO2_HIGH

    def __str__(self) -> str:
        """All that the guidance's doses depend on, so that they follow from the words before."""
        pressure = "MAP is not known"
        if self.map_mmhg is not None:
            passed = self.map_mmhg > _WEAN_MMHG
            where = f"above {_WEAN_MMHG:g}" if passed else "below" if self.low else "at"
            target = "" if passed else f" the target of {MAP_TARGET_MMHG:g}"
            pressure = f"MAP is {self.map_mmhg:g}, {where}{target}"
        lactate = "lactate not known"
        if self.lactate is not None:
            high = self.lactate > LACTATE_HIGH_MMOL_L
            lactate = f"lactate {self.lactate:g}, {'high' if high else 'not high'}"
        oxygen = "FiO2 not known"
        if self.fio2 is not None:
            oxygen = f"FiO2 {self.fio2:g}, {'high' if self.enough_fluid else 'not high'}"
        fluid, vasopressor = self.running
        sign = f"{'' if self.hypoperfused else 'no '}hypoperfusion"
        if self.map_mmhg is None and self.lactate is None:
            sign = "hypoperfusion not known"
        return (
            f"{pressure}; {lactate}: {sign}; {oxygen}; "
            f"running fluid {fluid}, vasopressor {vasopressor}."
        )

    def proposals(self) -> list[Doses]:
        """The guideline's treatment first, then what runs, then a step further or back."""
        fluid, vasopressor = self.running
        if self.map_mmhg is None and not self.hypoperfused:
            return [(0 if self.enough_fluid else fluid, vasopressor)]
        toward = 0 if self.map_mmhg is None else 1 if self.low else -1
        needed = self.hypoperfused and not self.enough_fluid
        guided = 0 if self.enough_fluid else max(1, fluid) if needed else fluid - 1
        other = fluid + (1 if needed else -1)
        return _distinct(
            [
                _within(guided, vasopressor + toward),
                self.running,
                _within(other, vasopressor),
            ]
        )


def _within(fluid: int, vasopressor: int) -> Doses:
    return min(max(fluid, 0), N_LEVELS - 1), min(max(vasopressor, 0), N_LEVELS - 1)


def _distinct(doses: Sequence[Doses]) -> list[Doses]:
    return list(dict.fromkeys(doses))[:MAX_CANDIDATES]


def _doses(candidate: dict[str, Any]) -> Doses:
    return candidate["iv_fluid"], candidate["vasopressor"]


def _leading_number(text: str) -> float:
    return float(_NUMBER.match(text)[0])  # type: ignore[index]


def cost(candidate: dict[str, Any]) -> tuple[bool, float]:
    """What a simulated candidate is ranked by: support first, then risk, MAP target and doses."""
    risk = _leading_number(candidate["risk of death within 90 days"]) / 100
    pressure = candidate["after"].get("meanbp")
    below = max(0.0, MAP_TARGET_MMHG - _leading_number(pressure)) if pressure else 0.0
    spent = _RISK_PER_MMHG * below + _RISK_PER_LEVEL * sum(_doses(candidate))
    return OUTSIDE in candidate["support"], risk + spent


class RuleBackend:
    """Speaks for the rule, in the words and tool calls of a chat model."""

    model = "rule"
    sampling = Sampling()

    def __init__(self, rounds: int = 2) -> None:
        """Keeps how often it simulates: once, or once more around the best candidate."""
        self.rounds = rounds

    def complete(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]], *, draw: int = 0
    ) -> Reply:
        """Proposes, refines once around the best, then prescribes the best of all."""
        patient = _Patient.read(messages[1]["content"])
        answers = [json.loads(turn["content"]) for turn in messages if turn["role"] == "tool"]
        if not any(tool["function"]["name"] == "simulation" for tool in tools):
            return _prescribe(patient.proposals()[0], f"{patient} By the guidance.")
        seen = [candidate for answer in answers for candidate in answer["candidates"]]
        if not seen:
            return _simulate(patient.proposals(), f"{patient}{COMPARE}")
        best = min(seen, key=cost)
        fluid, vasopressor = _doses(best)
        if len(answers) < self.rounds:
            tried = {_doses(candidate) for candidate in seen}
            around = [(0, 1), (0, -1), (1, 0), (-1, 0)]
            near = _distinct([_within(fluid + df, vasopressor + dv) for df, dv in around])
            untried = [doses for doses in near if doses not in tried]
            if untried:
                return _simulate(untried, f"Best is {_told(best)}. Look around it.")
        return _prescribe((fluid, vasopressor), f"{patient} {WEIGHED}")

    def next_token(
        self, messages: Sequence[Message], tools: Sequence[dict[str, Any]] = (), *, prefix: str = ""
    ) -> dict[str, float]:
        """The rule has no tokens.

        Raises:
            AgentReplyError: Always.
        """
        raise AgentReplyError("the rule has no token probabilities")


def _simulate(candidates: Sequence[Doses], said: str) -> Reply:
    actions = [{"iv_fluid": fluid, "vasopressor": dose} for fluid, dose in candidates]
    return Reply(said, (ToolCall("call-0", "simulation", json.dumps({"actions": actions})),))


def _told(candidate: dict[str, Any]) -> str:
    fluid, vasopressor = _doses(candidate)
    pressure = candidate["after"].get("meanbp", "?").partition(",")[0]
    risk = candidate["risk of death within 90 days"]
    return f"fluid {fluid} with vasopressor {vasopressor}: 90-day risk {risk}, MAP {pressure}"


def _prescribe(doses: Doses, said: str) -> Reply:
    """The doses are named in the call alone: there and nowhere else they are decided on."""
    fluid, vasopressor = doses
    arguments = json.dumps({"iv_fluid": fluid, "vasopressor": vasopressor})
    return Reply(said, (ToolCall("call-0", "prescription", arguments),))


class TeacherAgent(LLMAgent):
    """Treats by the rule; it takes clock and dose levels from the environment it is bound to."""

    def __init__(self, *, workers: int = 1, rounds: int = 2, **settings: Any) -> None:
        """Sets the agent up.

        Args:
            workers: See :class:`LLMAgent`.
            rounds: 1 to simulate once, 2 to look around the best candidate as well.
            settings: Others of :class:`LLMAgent`.
        """
        unknown: Any = None  # until bind
        fallback = NoTreatmentAgent()  # never asked: the rule's calls are valid
        self._rounds = rounds
        super().__init__(
            RuleBackend(rounds), unknown, fallback=fallback, workers=workers, **settings
        )

    def bind(self, simulator: Simulator) -> None:
        """Keeps the environment to simulate in."""
        env: Any = simulator
        self.preprocessing = env.preprocessing
        super().bind(simulator)

    @property
    def provenance(self) -> dict[str, Any]:
        """Nothing but its settings: its wording is code."""
        return {"support_limit": self.support_limit, "rounds": self._rounds}

    def to_record(self) -> AgentRecord:
        """What is stored."""
        return AgentRecord(config=self.provenance)

    @classmethod
    def from_record(cls, record: AgentRecord) -> Self:
        """The agent that was stored."""
        return cls(**record.config)
