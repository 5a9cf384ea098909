"""What the language model reads and the two tools it may call: the one place that words them.

Serving and training must render dialogues from here, so that both see the same text.
"""

import hashlib
import json
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np

from agents.guideline import GuidelineConfig
from sepsis_gym.actions import N_LEVELS, decode_action
from sepsis_gym.agent import Info
from sepsis_gym.dynamics import Simulation
from sepsis_gym.features import FEATURE_INDEX, FEATURES, HIGH, LOW
from sepsis_gym.preprocessing import Preprocessing

MAP_TARGET_MMHG = 65.0
LACTATE_HIGH_MMOL_L = 2.0
FIO2_HIGH = GuidelineConfig().fio2_most
MAX_CANDIDATES = 3
HISTORY_STEPS = 6
"""Earlier steps of the stay that are told one by one."""
OUTSIDE = "outside what the data cover"
CALL_HEAD = '<tool_call>\n{"name": "prescription", "arguments": {"iv_fluid": '
"""A prescription as Hermes-format models write it, up to the fluid level."""
CALL_MIDDLE = ', "vasopressor": '
_MAP = FEATURE_INDEX["meanbp"]
OUTCOMES = (
    "meanbp",
    "heart_rate",
    "spo2",
    "lactate",
    "creatinine",
    "bilirubin_total",
    "platelet",
    "ph",
    "pao2",
    "output_4hourly",
)


def _level(what: str) -> dict[str, Any]:
    return {
        "type": "integer",
        "minimum": 0,
        "maximum": N_LEVELS - 1,
        "description": f"{what} level, 0 (none) to 4 (highest)",
    }


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


_DOSES = {"iv_fluid": _level("IV fluid"), "vasopressor": _level("vasopressor")}


def _tool(name: str, description: str, properties: dict[str, Any]) -> dict[str, Any]:
    function = {"name": name, "description": description, "parameters": _object(properties)}
    return {"type": "function", "function": {**function, "strict": True}}


PRESCRIPTION = _tool(
    "prescription", "Gives these doses for the coming step. Ends the decision.", _DOSES
)
SIMULATION = _tool(
    "simulation",
    "Predicts the patient after the coming step under up to three candidate treatments.",
    {
        "actions": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_CANDIDATES,
            "items": _object(_DOSES),
            "description": "the candidates",
        }
    },
)


def tools(*, simulate: bool) -> list[dict[str, Any]]:
    """The tools in alphabetical order, the simulator only where it may be used."""
    return [PRESCRIPTION, SIMULATION] if simulate else [PRESCRIPTION]


def system_prompt(preprocessing: Preprocessing, *, simulate: bool) -> str:
    """What the task is, what the levels mean and which rules bind; the same at every step."""
    ask = (
        "First call simulation with up to three candidate treatments that differ; weigh the "
        "predictions with caution, for they come from a learned model and may be biased. Then call "
        "prescription."
        if simulate
        else "Call prescription."
    )
    return _task(preprocessing, ask)


def _task(preprocessing: Preprocessing, ask: str) -> str:
    bins, hours = preprocessing.action_bins, preprocessing.step_hours
    return "\n".join(
        [
            "You advise on a septic patient in intensive care in a research simulation. Every "
            f"{hours} hours choose the IV fluid and the vasopressor for the next {hours} hours so "
            "that the patient survives the next 90 days.",
            f"IV fluid levels, mL per {hours} h: "
            + _levels(bins.fluid_edges, bins.fluid_doses, ".0f"),
            "Vasopressor levels, norepinephrine equivalent in ug/kg/min: "
            + _levels(bins.vasopressor_edges, bins.vasopressor_doses, ".2f"),
            "Guidance: keep MAP at 65 mmHg or above. Hypoperfusion (lactate above 2 mmol/L or MAP "
            "below 65) needs at least some fluid early on; give vasopressor if MAP stays below 65 "
            "after fluid. Avoid more vasopressor than the target needs and fluid overload: no more "
            f"fluid from an FiO2 of {FIO2_HIGH:g} on.",
            ask,
        ]
    )


def _levels(edges: Sequence[float], doses: Sequence[float], spec: str) -> str:
    bounds = [0.0, *edges]
    told = ["0 none"]
    for level in range(1, N_LEVELS):
        upper = f"{bounds[level]:{spec}}" if level < N_LEVELS - 1 else ""
        span = (
            f"{bounds[level - 1]:{spec}}-{upper}" if upper else f"over {bounds[level - 1]:{spec}}"
        )
        told.append(f"{level} {span} (about {doses[level]:{spec}})")
    return "; ".join(told)


def prompt_sha256(preprocessing: Preprocessing, *, simulate: bool) -> str:
    """What tells one wording from another: of this module and of what opens every dialogue."""
    opening = [system_prompt(preprocessing, simulate=simulate), tools(simulate=simulate)]
    written = Path(__file__).read_bytes() + json.dumps(opening).encode()
    return hashlib.sha256(written).hexdigest()


class Past:
    """What is told of a stay's earlier steps, however long it has lasted.

    Attributes:
        last: The step before the present one, None at the first.
    """

    def __init__(self) -> None:
        """Begins a stay."""
        self.last: Info | None = None
        self._lines: deque[str] = deque(maxlen=HISTORY_STEPS)
        self._steps = self._vasopressor_steps = 0
        self._fluid_ml = self._highest_dose = 0.0
        self._sofa: list[int] = []
        self._lactate: list[float] = []
        self._map: list[float] = []

    def add(self, info: Info) -> None:
        """Notes a step that is over."""
        dose = float(info["previous_norepinephrine_equivalent"])
        self.last = info
        self._lines.append(_line(info))
        self._steps += 1
        self._fluid_ml += float(info["previous_fluid_ml"])
        self._highest_dose = max(self._highest_dose, dose)
        self._vasopressor_steps += dose > 0
        self._sofa.append(int(info["sofa"]))
        for name, seen in (("lactate", self._lactate), ("meanbp", self._map)):
            if info["known"][FEATURE_INDEX[name]]:
                seen.append(float(info["state"][FEATURE_INDEX[name]]))

    def lines(self) -> list[str]:
        """A summary of all earlier steps and a line about each of the last, oldest first."""
        if not self._steps:
            return []
        told = [f"SOFA {self._sofa[0]} at first, highest {max(self._sofa)}"]
        if self._map:
            told.append(f"lowest MAP {rounded(min(self._map))} mmHg")
        if self._lactate:
            first, highest = self._lactate[0], max(self._lactate)
            told.append(f"lactate {rounded(first)} at first, highest {rounded(highest)} mmol/L")
        told.append(f"fluid {self._fluid_ml:.0f} mL in all")
        told.append(
            f"vasopressor in {self._vasopressor_steps} steps, up to {self._highest_dose:.2f}"
        )
        return [f"Stay so far ({self._steps} earlier steps): {'; '.join(told)}.", *self._lines]


def patient_message(info: Info, past: Past) -> str:
    """The present state, known values only, after what is told of the steps before it.

    A value measured in this step is followed by the one before it, where the course of it counts.
    What decides most often comes again at the end: models overlook the middle of a long text.

    Args:
        info: Of the environment.
        past: Of the same stay.
    """
    age, male, charlson = info["static"]
    lines = [
        f"Hour {info['hours']:.0f} in intensive care. {age:.0f}-year-old "
        f"{'man' if male else 'woman'}, Charlson index {charlson:.0f}. SOFA {info['sofa']}. "
        f"{'Invasively ventilated.' if info['ventilated'] else 'Breathing on their own.'}",
        f"Running: {_given(info)}",
    ]
    lines += past.lines()
    lines.append("Now (hours since measured, if not in this step):")
    for index, feature in enumerate(FEATURES):
        if info["known"][index]:
            hours = info["age_hours"][index]
            when = f" ({hours:.0f} h ago)" if hours > 0 else _trend(index, past.last)
            lines.append(f"- {feature.name} {rounded(info['state'][index])} {feature.unit}{when}")
    lines.append(f"In short: {_in_short(info)}.")
    return "\n".join(lines)


def _in_short(info: Info) -> str:
    fluid_level, vasopressor_level = decode_action(info["previous_action"])
    return (
        f"{_known(info, 'meanbp', 'MAP')}, {_known(info, 'lactate', 'lactate')}, "
        f"{_known(info, 'fio2', 'FiO2')}, SOFA {info['sofa']}; running are fluid level "
        f"{fluid_level} and vasopressor level {vasopressor_level}"
    )


def _known(info: Info, name: str, said: str) -> str:
    at = FEATURE_INDEX[name]
    if not info["known"][at]:
        return f"{said} not known"
    hours = info["age_hours"][at]
    when = f" ({hours:.0f} h ago)" if hours > 0 else ""
    return f"{said} {with_unit(rounded(info['state'][at]), at)}{when}"


def _trend(index: int, last: Info | None) -> str:
    told = last is not None and last["known"][index] and FEATURES[index].name in OUTCOMES
    return f" (was {rounded(last['state'][index])})" if told and last else ""


def level_messages(
    preprocessing: Preprocessing, info: Info, past: Past, fluid_level: int | None = None
) -> list[dict[str, Any]]:
    """Asks for the fluid level as one digit; given that level, for the vasopressor level."""
    task = _task(preprocessing, "Answer each question with one digit, 0 to 4, and nothing else.")
    asked = f"{patient_message(info, past)}\n\nWhich IV fluid level?"
    messages = [{"role": "system", "content": task}, {"role": "user", "content": asked}]
    if fluid_level is not None:
        messages.append({"role": "assistant", "content": str(fluid_level)})
        messages.append({"role": "user", "content": "And which vasopressor level?"})
    return messages


def with_unit(number: str, index: int) -> str:
    """A feature's value as it is said: a fraction has no unit."""
    unit = FEATURES[index].unit
    return number if unit == "fraction" else f"{number} {unit}"


def rounded(value: SupportsFloat) -> str:
    """Three significant digits, whole from 100 on."""
    number = float(value)
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"


def _signed(change: SupportsFloat) -> str:
    told = f"{float(change):+.0f}" if abs(float(change)) >= 10 else f"{float(change):+.2g}"
    return "+0" if float(told) == 0 else told


def _line(info: Info) -> str:
    known = [
        f"{name} {rounded(info['state'][FEATURE_INDEX[name]])}"
        for name in ("meanbp", "lactate", "output_4hourly")
        if info["known"][FEATURE_INDEX[name]]
    ]
    return f"- hour {info['hours']:.0f}: SOFA {info['sofa']}, {', '.join([*known, _given(info)])}"


def _given(info: Info) -> str:
    fluid_level, vasopressor_level = decode_action(info["previous_action"])
    return (
        f"fluid {info['previous_fluid_ml']:.0f} mL (level {fluid_level}), norepinephrine "
        f"equivalent {info['previous_norepinephrine_equivalent']:.2f} ug/kg/min "
        f"(level {vasopressor_level})"
    )


def simulation_message(
    actions: Sequence[int], simulation: Simulation, info: Info, support_limit: float | None = None
) -> str:
    """What the simulation tool answers, as JSON; only of what is known of the patient now.

    Each value comes with its change from now and 5-95% bounds, within what can be measured at all.
    The present comes again at the end, as in :func:`patient_message`.

    Args:
        actions: The k candidates.
        simulation: What became of them.
        info: The present state.
        support_limit: Disagreement of the model's members above which a candidate is said to lie
            outside what the data cover; None to tell the disagreement alone.
    """
    values, spread = (np.clip(told, LOW, HIGH) for told in (simulation.values, simulation.spread))
    candidates, short, ranks = [], [], []
    for k, action in enumerate(actions):
        fluid_level, vasopressor_level = decode_action(action)
        after = {}
        for name in OUTCOMES:
            at = FEATURE_INDEX[name]
            if info["known"][at]:
                change = values[k, at] - info["state"][at]
                low, high = (rounded(bound) for bound in spread[k, :, at])
                told = f"{rounded(values[k, at])} {FEATURES[at].unit} ({_signed(change)})"
                after[name] = f"{told}, {low} to {high}"
        doubt = float(simulation.epistemic[k])
        outside = support_limit is not None and doubt > support_limit
        pressure = f"MAP {rounded(values[k, _MAP])}, " if info["known"][_MAP] else ""
        doses = f"fluid {fluid_level}, vasopressor {vasopressor_level}"
        risk = float(simulation.mortality_90d[k])
        short.append(
            f"{doses}: {pressure}90-day risk {risk:.1%}{', ' + OUTSIDE if outside else ''}"
        )
        ranks.append((outside, risk, doses))
        candidates.append(
            {
                "iv_fluid": int(fluid_level),
                "vasopressor": int(vasopressor_level),
                "after": after,
                "sofa": int(simulation.sofa[k]),
                "risk of death in the step": f"{simulation.died[k]:.1%}",
                "risk of death within 90 days": f"{risk:.1%}",
                "support": (f"{OUTSIDE}; " if outside else "") + f"models differ by {doubt:.2f} z",
            }
        )
    if len(ranks) > 1:
        apart = len({outside for outside, *_ in ranks}) > 1
        short.append(f"least risk{' within the data' if apart else ''}: {min(ranks)[-1]}")
    answer = {
        "candidates": candidates,
        "caution": "predictions of a learned model",
        "in short": "; ".join(short),
        "now": _in_short(info),
    }
    return json.dumps(answer)
