"""Questions about a patient and their answers: what stage 1 teaches, and forecasts ask."""

from collections.abc import Sequence
from typing import Any

from agents.llm.prompt import (
    FIO2_HIGH,
    LACTATE_HIGH_MMOL_L,
    MAP_TARGET_MMHG,
    OUTCOMES,
    Past,
    patient_message,
    rounded,
    with_unit,
)
from sepsis_gym.actions import decode_action
from sepsis_gym.agent import Info
from sepsis_gym.dynamics import Simulation
from sepsis_gym.features import FEATURE_INDEX

_YES_OR_NO = "Answer yes or no."
QUESTIONS = {
    "hospital_mortality": f"Will this patient die before leaving the hospital? {_YES_OR_NO}",
    "vasopressor_24h": "No vasopressor is running. Will one be started within the next 24 hours? "
    f"{_YES_OR_NO}",
}
PRESENT = "How is the patient now, and what is running?"
_ASSESS = "You assess septic patients in intensive care for research. Answer in one line."
_MAP = FEATURE_INDEX["meanbp"]
_TARGETS = (
    ("meanbp", "MAP", MAP_TARGET_MMHG),
    ("lactate", "lactate", LACTATE_HIGH_MMOL_L),
    ("fio2", "FiO2", FIO2_HIGH),
)
_SOFA_ASKED = 6
"""About as many logged states lie above it as not."""


def ask(
    info: Info, past: Past, questions: Sequence[str], answers: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """Asks about a state, each question after the answer to the one before it.

    Args:
        info: Of the environment.
        past: Of the same stay.
        questions: At least one.
        answers: To all of them, or to all but the last.
    """
    told: list[dict[str, Any]] = [{"role": "system", "content": _ASSESS}]
    patient = f"{patient_message(info, past)}\n\n"
    for at, question in enumerate(questions):
        told.append({"role": "user", "content": question if at else patient + question})
        told += [{"role": "assistant", "content": answer} for answer in answers[at : at + 1]]
    return told


def present_answer(info: Info) -> str:
    """What stands in the last line of the patient, and which side of the targets it is on."""
    fluid_level, vasopressor_level = decode_action(info["previous_action"])
    told = [_beside(info, *each) for each in _TARGETS]
    told += [f"SOFA {info['sofa']}", f"fluid level {fluid_level}"]
    return f"{'; '.join(told)}, vasopressor level {vasopressor_level}"


def _beside(info: Info, name: str, said: str, target: float) -> str:
    at = FEATURE_INDEX[name]
    if not info["known"][at]:
        return f"{said} not known"
    shown = rounded(info["state"][at])
    side = "below" if float(shown) < target else "above" if float(shown) > target else "at"
    return f"{said} {shown}, {side} {target:g}"


def present_facts(info: Info) -> dict[str, bool]:
    """Questions that the last line answers with yes or no, and whether it is yes."""
    fluid_level, vasopressor_level = decode_action(info["previous_action"])
    facts = {
        f"Is SOFA above {_SOFA_ASKED}?": info["sofa"] > _SOFA_ASKED,
        "Is fluid running?": fluid_level > 0,
        "Is a vasopressor running?": vasopressor_level > 0,
    }
    for name, said, target in _TARGETS:
        at = FEATURE_INDEX[name]
        if info["known"][at]:
            shown = float(rounded(info["state"][at]))
            facts[f"Is {said} above {with_unit(f'{target:g}', at)}?"] = shown > target
    return {f"{question} {_YES_OR_NO}": bool(truth) for question, truth in facts.items()}


def outcome_question(action: int) -> str:
    """What a treatment will lead to."""
    return f"{_treatment(action)} are given. How will the patient be after the step?"


def outcome_answer(before: Info, after: Info) -> str:
    """SOFA and what was measured after the step of what was known before, from then to now."""
    told = [f"SOFA {before['sofa']} to {after['sofa']}"]
    for name in OUTCOMES:
        at = FEATURE_INDEX[name]
        if before["known"][at] and after["measured"][at]:
            told.append(f"{name} {rounded(before['state'][at])} to {rounded(after['state'][at])}")
    return "; ".join(told)


def choice_question(actions: tuple[int, int]) -> str:
    """What two treatments would lead to."""
    first, second = map(_treatment, actions)
    return f"Compare: A, {first}; B, {second}. Which leads to a higher MAP, which to less risk?"


def choice_answer(simulation: Simulation) -> str:
    """What became of the two candidates, and which is better."""
    pressure, risk = simulation.values[:, _MAP], simulation.mortality_90d
    told = [
        f"{name}: meanbp {rounded(pressure[k])}, 90-day risk {risk[k]:.0%}"
        for k, name in enumerate("AB")
    ]
    higher, safer = "AB"[int(pressure.argmax())], "AB"[int(risk.argmin())]
    return f"{'; '.join(told)}. Higher MAP: {higher}. Less risk: {safer}."


def _treatment(action: int) -> str:
    fluid_level, vasopressor_level = decode_action(action)
    return f"fluid level {fluid_level} and vasopressor level {vasopressor_level}"
