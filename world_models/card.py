"""A world model's card.

Source: the headings of Mitchell et al. 2019, Model Cards for Model Reporting.
"""

import json
from pathlib import Path
from typing import Any

from sepsis_gym.errors import SourceError
from sepsis_gym.features import N_FEATURES
from world_models.fidelity_report import fidelity_markdown, from_plain
from world_models.model import ClinicalWorldModel


def model_card(
    name: str,
    model: ClinicalWorldModel,
    provenance: dict[str, Any],
    fidelity: Path | None = None,
) -> str:
    """The card as Markdown.

    Args:
        name: What the model is called.
        model: The model.
        provenance: What it was trained on and how.
        fidelity: fidelity.json of an evaluation; without it the card says that there is none.

    Raises:
        SourceError: The file is no such JSON.
    """
    sections = {
        "Model details": _details(model, provenance),
        "Intended use": _USE,
        "Factors": _FACTORS,
        "Metrics": _METRICS,
        "Training data": _training_data(provenance),
        "Quantitative analyses": _analyses(fidelity),
        "Ethical considerations": _ETHICS,
        "Caveats and recommendations": _caveats(provenance),
    }
    parts = [f"# Model card: Clinical World Model `{name}`", _WARNING]
    parts += [f"## {title}\n\n{text}" for title, text in sections.items()]
    return "\n\n".join(parts) + "\n"


_WARNING = (
    "**Research software, never for patient care.** It predicts what simulated or recorded "
    "patients would look like next; it does not know what is best for anybody."
)
_USE = """- For research on sequential treatment decisions: dynamics behind `SepsisWM-v0`, planning
  and "what if" questions of agents, teaching.
- For comparing agents on one simulator. What an agent reaches in it is a property of the model,
  not evidence about patients.
- **Out of scope**: any decision about a patient, bedside display, dosing advice, claims that a
  treatment works, and doses or populations outside the training data."""
_FACTORS = """Adults in intensive care with sepsis as the cohort defines it. Age, sex, Charlson
index, ventilation and the doses given are inputs; ethnicity, hospital, body weight and other
treatments are not. Performance is not reported by subgroup here: do so before relying on any."""
_METRICS = """Mean absolute z-score error over measured values one step ahead and in open loop over
12 steps, CRPS and 90% interval coverage, SOFA error, AUROC of ventilation, and AUROC, AUPRC and
Brier score of 90-day mortality; beside persistence and ridge regression, and on simulated patients
beside the floor that the truth allows. How well levels are predicted does not show whether the
effect of a dose is right: look at the contrasts too."""
_ETHICS = """The checkpoint holds weights and a generative model of starting states, no patient row.
Logged treatment follows the patient's state and the habits of clinicians; the model may take their
confounding for an effect, and repeat differences in care between groups. An agent that exploits its
errors can look better than it is."""


def _details(model: ClinicalWorldModel, provenance: dict[str, Any]) -> str:
    weights = sum(array.size for array in model.weights.values())
    preprocessing = model.preprocessing
    lines = [
        f"- Ensemble of {model.members} recurrent networks (GRU cell, {model.hidden} hidden units, "
        f"{weights:,} weights in all) that carry their state from step to step.",
        f"- A step is {preprocessing.step_hours} h, at most {preprocessing.max_steps} of them; "
        f"{preprocessing.alignment} alignment of states and actions.",
        f"- It predicts the change of {N_FEATURES} features with its spread, which of them are "
        "measured, ventilation, the end of the stay and 90-day mortality, given fluid and "
        "vasopressor doses; members disagree where data are thin (`epistemic`).",
        f"- Trained by sepsis-gym {provenance.get('sepsis_gym', 'of an unknown version')}, "
        f"MIT license; best epoch {provenance.get('best_epoch', 'unknown')}.",
    ]
    return "\n".join(lines)


def _training_data(provenance: dict[str, Any]) -> str:
    credentialed = provenance.get("credentialed")
    bound = " A data use agreement binds its rows, and perhaps this model." if credentialed else ""
    settings = json.dumps(provenance.get("config", {}), sort_keys=True)
    return (
        f"{provenance.get('n_stays', 'An unknown number of')} training stays of: "
        f"{provenance.get('cohort', 'an unknown cohort')} (content hash "
        f"`{provenance.get('content_hash', 'unknown')}`).{bound}\n\nSettings: `{settings}`"
    )


def _analyses(file: Path | None) -> str:
    if file is None:
        return (
            "None given: `sepsis-gym world-model evaluate --out FOLDER` measures and writes them."
        )
    try:
        content = json.loads(file.read_text())
        columns = {name: from_plain(numbers) for name, numbers in content["columns"].items()}
        what = f"`{content['model']}` on {content['stays']} {content['split']} stays"
        return f"{what} of {content['cohort']}:\n\n{fidelity_markdown(columns).rstrip()}"
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise SourceError(
            f"{file}: is no fidelity.json of sepsis-gym world-model evaluate: {error!r}"
        ) from error


_TAUGHT = {
    "truth": "- Effects of treatment were told by the truth of simulated patients.",
    "prior": "- The size of its blood-pressure responses is a pharmacological prior's; what doses "
    "do to all else, and who responds more, is what the log says, confounding included.",
    "log": "- Nothing but the log told it of effects: it may rank treatments backwards.",
}


def _caveats(provenance: dict[str, Any]) -> str:
    effects = provenance.get("config", {}).get("effects", "log")
    lines = [
        _TAUGHT.get(effects, _TAUGHT["log"]),
        "- Learned from logs: a dose that was never given, or only to the sickest, is guessed.",
        "- A stay is at most 72 h; what comes after is one number, the risk by day 90.",
        "- Values that nobody measured are carried forward; the model never learned them.",
    ]
    if "synthetic" in str(provenance.get("cohort")):
        lines.append(
            "- Its patients are simulated: it knows the physiology of that simulator, and real "
            "patients only as far as the simulator is like them."
        )
    lines.append(
        "- Measure it again on your own cohort before use, and say which checkpoint it was."
    )
    return "\n".join(lines)
