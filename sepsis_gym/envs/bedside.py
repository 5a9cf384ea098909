"""The bedside chart as text: what ``render()`` prints."""

from typing import Any

from sepsis_gym.actions import decode_action
from sepsis_gym.dynamics import End
from sepsis_gym.envs.episode import UNKNOWN
from sepsis_gym.features import FEATURES


def bedside_text(info: dict[str, Any]) -> str:
    """Prints one patient from the ``info`` of a step; values no longer known are left out."""
    age, male, charlson = info["static"]
    fluid_level, vasopressor_level = decode_action(info["previous_action"])
    lines = [
        f"hour {info['hours']:.0f}   {age:.0f}-year-old {'man' if male else 'woman'}, "
        f"Charlson {charlson:.0f}   SOFA {info['sofa']}"
        f"{'   ventilated' if info['ventilated'] else ''}",
        f"given: fluid {info['previous_fluid_ml']:.0f} mL (level {fluid_level}), "
        f"norepinephrine equivalent {info['previous_norepinephrine_equivalent']:.2f} ug/kg/min "
        f"(level {vasopressor_level})",
    ]
    cells = []
    for index, feature in enumerate(FEATURES):
        if not info["known"][index]:
            continue
        hours = info["age_hours"][index]
        when = "" if hours == 0 else f" ({hours:.0f} h ago)"
        cells.append(f"{feature.name} {info['state'][index]:.4g} {feature.unit}{when}")
    lines += ["   ".join(cells[at : at + 4]) for at in range(0, len(cells), 4)]
    if info["end"] != End.ONGOING:
        outcome = {UNKNOWN: "", 0: "; alive at 90 days", 1: "; dead at 90 days"}[info["died_90d"]]
        lines.append(f"end of stay: {End(info['end']).name.lower().replace('_', ' ')}{outcome}")
    return "\n".join(lines)
