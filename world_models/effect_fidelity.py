"""How well a world model knows what treatment does: its contrasts beside the true ones.

Level errors do not show whether a model ranks treatments the right way round. Here every patient is
asked about twice, under a treatment and under none, and the *difference* is compared with the
truth, which only synthetic patients have.
"""

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from sepsis_gym.dynamics import End
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES
from sepsis_gym.trajectories import Trajectories
from world_models.effects import Doses
from world_models.forecast import Forecaster
from world_models.logged import expected_step, followed
from world_models.physiology.effects import Moment, expected, true_moments

RISK_HOURS = 24
Arm = tuple[float, float]
"""Fluid, mL per step, and vasopressor, ug/kg/min."""
Answers = dict[Arm, NDArray[np.float32]]
_NOTHING, _FLUID, _VASOPRESSOR, _BOTH = (0.0, 0.0), (500.0, 0.0), (0.0, 0.13), (500.0, 0.13)
ARMS = (_NOTHING, _FLUID, _VASOPRESSOR, _BOTH)


@dataclass(frozen=True)
class Contrast:
    """A treatment against none.

    Attributes:
        name: Of the treatment and of what it acts on.
        unit: Of the difference.
        arm: The treatment.
        feature: What it acts on; None for death within 24 h of the treatment held.
    """

    name: str
    unit: str
    arm: Arm
    feature: str | None


CONTRASTS = (
    Contrast("norepinephrine 0.13 on MAP", "mmHg", _VASOPRESSOR, "meanbp"),
    Contrast("500 mL on MAP", "mmHg", _FLUID, "meanbp"),
    Contrast("500 mL on urine", "mL/4 h", _FLUID, "output_4hourly"),
    Contrast("both on death within 24 h", "%", _BOTH, None),
)


@dataclass(frozen=True)
class EffectScore:
    """Predicted and true differences of one contrast.

    Attributes:
        contrast: Which.
        true: [K] true differences, one per decision (one per stay for the risk).
        predicted: [K] the model's.
    """

    contrast: Contrast
    true: NDArray[np.float64]
    predicted: NDArray[np.float64]

    @property
    def bias(self) -> float:
        """Mean predicted over mean true difference, less 1."""
        return float(self.predicted.mean() / self.true.mean() - 1)

    @property
    def correlation(self) -> float:
        """Pearson's r over patients: whether the model knows who responds."""
        if min(self.true.std(), self.predicted.std()) == 0:  # the same for all: it does not
            return 0.0
        return float(np.corrcoef(self.true, self.predicted)[0, 1])


def evaluate_effects(model: Forecaster, log: Trajectories) -> list[EffectScore]:
    """Asks the model and the truth about every contrast at every decision.

    Those under comfort care are left out: they are given nothing, whatever is asked for. The risk
    of death is asked about once per stay, at its first decision.

    Args:
        model: The world model, or what it is compared with; of one that says nothing of deaths, the
            risk is NaN.
        log: Stays of a synthetic cohort in the model's scales.

    Raises:
        ConfigError: The truth about these stays is not known.
    """
    moments = list(true_moments(log))
    counted = np.zeros(int(log.is_decision.sum()), bool)
    for moment in moments:
        counted[moment.decision] = moment.beds.body.comfort == 0
    first = log.step[log.is_decision] == 0
    true, true_risk = _truth(log, moments)
    predicted, risk = _predictions(model, log), _risks(model, log)
    scores = []
    for contrast in CONTRASTS:
        if contrast.feature is None:
            pair, chosen = (true_risk, risk), counted & first
            differences = [100 * (x[contrast.arm][chosen] - x[_NOTHING][chosen]) for x in pair]
        else:
            at = FEATURE_INDEX[contrast.feature]
            differences = [(x[contrast.arm] - x[_NOTHING])[counted, at] for x in (true, predicted)]
        scores.append(EffectScore(contrast, *(d.astype(np.float64) for d in differences)))
    return scores


def effect_json(scores: list[EffectScore]) -> dict[str, dict[str, float | None]]:
    """The scores as plain JSON, by name of the contrast; null where nothing is said."""
    plain = {}
    for score in scores:
        numbers = {
            "true": float(score.true.mean()),
            "predicted": float(score.predicted.mean()),
            "bias": score.bias,
            "r": score.correlation,
            "mae": float(np.abs(score.predicted - score.true).mean()),
        }
        plain[f"{score.contrast.name}, {score.contrast.unit}"] = {
            name: number if np.isfinite(number) else None for name, number in numbers.items()
        }
    return plain


def effect_table(scores: list[EffectScore], ceilings: list[float] | None = None) -> str:
    """The scores as a text table.

    Args:
        scores: One per contrast.
        ceilings: r of the same network trained on true differences alone, if that was done.
    """
    table = Table(title="Effects of treatment: predicted against true difference, per patient")
    for name in ("treatment against none", "true", "predicted", "bias", "r", "MAE"):
        table.add_column(name, justify="left" if name.startswith("t") else "right")
    if ceilings:
        table.add_column("r / ceiling", justify="right")
    for index, (name, numbers) in enumerate(effect_json(scores).items()):
        forms = {"true": ".2f", "predicted": ".2f", "bias": "+.0%", "r": ".2f", "mae": ".2f"}
        cells = [
            "n/a" if (number := numbers[key]) is None else f"{number:{form}}"
            for key, form in forms.items()
        ]
        if ceilings:
            cells.append(f"{scores[index].correlation / ceilings[index]:.2f}")
        table.add_row(name, *cells)
    out = io.StringIO()
    Console(file=out, width=100).print(table)
    return out.getvalue()


def _doses(arm: Arm, n: int) -> Doses:
    return Doses(*(np.full(n, dose, np.float32) for dose in arm))


def _truth(log: Trajectories, moments: list[Moment]) -> tuple[Answers, Answers]:
    """By arm: [D, 39] values after the step, clinical units, and [D] death within 24 h."""
    n, hours = int(log.is_decision.sum()), log.preprocessing.step_hours
    values = {arm: np.zeros((n, N_FEATURES), np.float32) for arm in ARMS}
    risks = {arm: np.zeros(n, np.float32) for arm in ARMS}
    for moment in moments:
        for arm in ARMS:
            doses = _doses(arm, len(moment.decision))
            values[arm][moment.decision] = expected(moment, doses, hours)[0]
            if moment.hour == hours:  # the first decision
                risk = expected(moment, doses, hours, RISK_HOURS // hours)[1]
                risks[arm][moment.decision] = risk
    return values, risks


def _predictions(model: Forecaster, log: Trajectories) -> Answers:
    """By arm: [D, 39] values after the step, clinical units, following the logged states."""
    position = np.cumsum(log.is_decision) - 1
    values = {arm: np.zeros((position[-1] + 1, N_FEATURES), np.float32) for arm in ARMS}
    for rows, patients in followed(model, log):
        for arm in ARMS:
            mean = model.predict(patients, *_doses(arm, len(rows)))["mean"]
            values[arm][position[rows]] = model.preprocessing.restore(mean)
    return values


def _risks(model: Forecaster, log: Trajectories) -> Answers:
    """By arm: [D] death within 24 h of doses held, told at the first decision of each stay.

    The model runs on as in ``expected_step``; where its own means are shown as if read, what was
    measured at first stays measured.
    """
    at = (np.cumsum(log.is_decision) - 1)[log.offsets[:-1]]
    risks = {}
    for arm in ARMS:
        patients = log.patients(log.offsets[:-1])
        doses, measured = _doses(arm, len(patients)), patients.measured
        alive, died = np.ones(len(patients)), np.zeros(len(patients))
        for _ in range(RISK_HOURS // log.preprocessing.step_hours):
            said = model.predict(patients, *doses)
            end = said.get("end", np.full((len(patients), 3), np.nan))
            died += alive * end[:, End.DIED]
            alive *= end[:, End.ONGOING]
            patients = expected_step(model, patients, doses, said, measured)
        risks[arm] = np.zeros(int(log.is_decision.sum()), np.float32)
        risks[arm][at] = died
    return risks
