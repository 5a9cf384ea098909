"""From synthetic to real patients: a world model on a MIMIC-IV cohort, as it is and fine-tuned.

Scores a world model trained on synthetic patients on every stay of a real cohort, then goes on
training it on the others of each of five folds of patients and scores it on those left out. Errors
are in the world model's z-scores. The open MIMIC-IV demo gives some ten stays: read the vitals,
hardly the outcomes.

    sepsis-gym cohort mimic --mimic-dir PATH/mimic-iv-demo --no-credentialed --out runs/demo-cohort
    python benchmarks/demo_transfer.py --cohort runs/demo-cohort --out runs/demo-transfer
"""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from sepsis_gym.errors import ConfigError, SepsisGymError
from sepsis_gym.features import FEATURE_NAMES
from sepsis_gym.trajectories import Trajectories
from world_models import ClinicalWorldModel, TrainConfig, load_world_model
from world_models.fidelity import VITALS, forecast, score
from world_models.fidelity_report import fidelity_table
from world_models.forecast import Predictions, in_scales_of
from world_models.references import Persistence
from world_models.training import train_world_model

FOLDS, RESAMPLES = 5, 2000
FINE_TUNING = TrainConfig(
    epochs=60, patience=10, batch_size=4, learning_rate=3e-4, weight_decay=0.01, dropout=0.1
)


def folds(log: Trajectories, seed: int) -> NDArray[np.int64]:
    """[N] fold of each stay; those of one patient share it."""
    subjects, patient = np.unique(log.stays.subject_id, return_inverse=True)
    if len(subjects) < FOLDS:
        raise ConfigError(f"{FOLDS} folds need as many patients, the cohort has {len(subjects)}")
    order = np.random.default_rng(seed).permutation(len(subjects))
    return (order % FOLDS)[patient]


def fine_tuned(
    model: str, log: Trajectories, fold: NDArray[np.int64], left_out: int, folder: Path
) -> ClinicalWorldModel:
    """Goes on training without a fold's patients; the next fold says when to stop."""
    if not folder.exists():
        stops = fold == (left_out + 1) % FOLDS
        split = np.select([fold == left_out, stops], ["test", "validation"], "train")
        mine = replace(log, stays=replace(log.stays, split=split))
        train_world_model(mine, folder, replace(FINE_TUNING, init=model))
    return load_world_model(folder)


def cross_validated(
    model: str, log: Trajectories, out: Path, seed: int
) -> tuple[Trajectories, Predictions]:
    """The stays fold by fold, each predicted by the model that never saw its patient."""
    fold = folds(log, seed)
    order = [np.flatnonzero(fold == left_out) for left_out in range(FOLDS)]
    parts = [
        forecast(fine_tuned(model, log, fold, at, out / f"fold-{at}"), log.select(stays))
        for at, stays in enumerate(order)
    ]
    together = {
        item.name: np.concatenate([getattr(part, item.name) for part in parts])
        for item in fields(Predictions)
    }
    return log.select(np.concatenate(order)), Predictions(**together)


def vitals_ratio(
    log: Trajectories, expected: Predictions, simple: Predictions, seed: int
) -> NDArray[np.float64]:
    """Error on vitals over that of a simpler forecast: [3] all stays, 95% bootstrap interval.

    Stays are resampled; the bounds are percentiles.
    """
    rows = np.flatnonzero(log.is_decision)
    counted = log.measured[rows + 1] & np.isin(FEATURE_NAMES, VITALS)
    target = log.preprocessing.standardize(log.values[rows + 1])
    sums = [
        np.bincount(log.stay_of_row[rows], np.where(counted, np.abs(said.mean - target), 0).sum(1))
        for said in (expected, simple)
    ]
    drawn = np.random.default_rng(seed).integers(len(log), size=(RESAMPLES, len(log)))
    resampled = sums[0][drawn].sum(1) / sums[1][drawn].sum(1)
    whole = sums[0].sum() / sums[1].sum()
    return np.array([whole, *np.quantile(resampled, (0.025, 0.975))])


def main(cohort: Path, out: Path, model: str = "default", seed: int = 0) -> None:
    """Scores, fine-tunes, scores again, and prints the table.

    Args:
        cohort: Folder written by ``sepsis-gym cohort mimic``.
        out: Folder for the fine-tuned checkpoints.
        model: Name or folder of the world model to start from.
        seed: Of the folds.
    """
    before = load_world_model(model)
    log = in_scales_of(Trajectories.load(cohort), before.preprocessing)
    out.mkdir(parents=True, exist_ok=True)
    log, tuned = cross_validated(model, log, out, seed)
    expected = {
        "synthetic only": forecast(before, log),
        "fine-tuned": tuned,
        "persistence": forecast(Persistence(before.preprocessing), log),
    }
    columns = {name: score(said, log, log.preprocessing) for name, said in expected.items()}
    print(fidelity_table(columns, f"{model} on {len(log)} stays of {log.manifest.source}"))
    for name in ("synthetic only", "fine-tuned"):
        ratio, low, high = vitals_ratio(log, expected[name], expected["persistence"], seed)
        verdict = "beats" if ratio < 1 else "DOES NOT BEAT"
        print(
            f"{name}: {verdict} persistence on vitals, error {ratio:.3f} times as large "
            f"(95% interval over stays {low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except SepsisGymError as error:
        raise SystemExit(f"error: {error}") from None
