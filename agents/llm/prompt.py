"""What the language model reads and the two tools it may call: the one place that words them.

Serving and training must render dialogues from here, so that both see the same text.
"""

import json
from collections.abc import Sequence
from typing import Any, SupportsFloat

from sepsis_gym.actions import N_LEVELS, decode_action
from sepsis_gym.agent import Info
from sepsis_gym.dynamics import Simulation
from sepsis_gym.features import FEATURE_INDEX, FEATURES
from sepsis_gym.preprocessing import Preprocessing

MAX_CANDIDATES = 3
HISTORY_STEPS = 6
"""Earlier steps of the stay that are told."""
QUESTIONS = {
    "hospital_mortality": "Will this patient die before leaving the hospital?",
    "vasopressor_24h": "No vasopressor is running. Will one be started within the next 24 hours?",
}
_OUTCOMES = (
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
            "after fluid. Avoid more vasopressor than the target needs and fluid overload.",
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


def patient_message(info: Info, earlier: Sequence[str]) -> str:
    """The present state, known values only, and a line about each of the last steps.

    Args:
        info: Of the environment.
        earlier: Lines made by :func:`history_line`, oldest first.
    """
    age, male, charlson = info["static"]
    lines = [
        f"Hour {info['hours']:.0f} in intensive care. {age:.0f}-year-old "
        f"{'man' if male else 'woman'}, Charlson index {charlson:.0f}. SOFA {info['sofa']}. "
        f"{'Invasively ventilated.' if info['ventilated'] else 'Breathing on their own.'}",
        f"Running: {_given(info)}",
    ]
    if earlier:
        lines += ["Earlier:", *earlier]
    lines.append("Now (hours since measured, if not in this step):")
    for index, feature in enumerate(FEATURES):
        if info["known"][index]:
            hours = info["age_hours"][index]
            when = f" ({hours:.0f} h ago)" if hours > 0 else ""
            lines.append(f"- {feature.name} {_number(info['state'][index])} {feature.unit}{when}")
    return "\n".join(lines)


def level_messages(
    preprocessing: Preprocessing, info: Info, earlier: Sequence[str], fluid_level: int | None = None
) -> list[dict[str, Any]]:
    """Asks for the fluid level as one digit; given that level, for the vasopressor level."""
    task = _task(preprocessing, "Answer each question with one digit, 0 to 4, and nothing else.")
    asked = f"{patient_message(info, earlier)}\n\nWhich IV fluid level?"
    messages = [{"role": "system", "content": task}, {"role": "user", "content": asked}]
    if fluid_level is not None:
        messages.append({"role": "assistant", "content": str(fluid_level)})
        messages.append({"role": "user", "content": "And which vasopressor level?"})
    return messages


def question_messages(question: str, info: Info, earlier: Sequence[str]) -> list[dict[str, Any]]:
    """Asks one of :data:`QUESTIONS` about a state; arguments as :func:`patient_message`."""
    task = "You assess septic patients in intensive care for research. Answer with yes or no alone."
    asked = f"{patient_message(info, earlier)}\n\n{QUESTIONS[question]} Answer yes or no."
    return [{"role": "system", "content": task}, {"role": "user", "content": asked}]


def _number(value: SupportsFloat) -> str:
    """Four significant digits, whole from 1000 on: ``g`` alone turns to exponents there."""
    number = float(value)
    return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def history_line(info: Info) -> str:
    """One past step in a line: what the next steps need to remember of it."""
    known = [
        f"{name} {_number(info['state'][FEATURE_INDEX[name]])}"
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


def simulation_message(actions: Sequence[int], simulation: Simulation) -> str:
    """What the simulation tool answers, as JSON: predictions with 5-95% bounds per candidate."""
    candidates = []
    for k, action in enumerate(actions):
        fluid_level, vasopressor_level = decode_action(action)
        after = {}
        for name in _OUTCOMES:
            at = FEATURE_INDEX[name]
            low, high = simulation.spread[k, :, at]
            after[f"{name} ({FEATURES[at].unit})"] = (
                f"{_number(simulation.values[k, at])} [{_number(low)} to {_number(high)}]"
            )
        candidates.append(
            {
                "iv_fluid": int(fluid_level),
                "vasopressor": int(vasopressor_level),
                "after": after,
                "sofa": int(simulation.sofa[k]),
                "risk of death in the step": f"{simulation.died[k]:.1%}",
                "risk of death within 90 days": f"{simulation.mortality_90d[k]:.1%}",
                "disagreement of the models (z)": f"{simulation.epistemic[k]:.2f}",
            }
        )
    return json.dumps({"candidates": candidates, "caution": "predictions of a learned model"})
