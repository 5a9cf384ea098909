"""From synthetic to real patients: a world model on a MIMIC-IV cohort, as it is and fine-tuned.

Scores a world model trained on synthetic patients on every stay of a real cohort, then goes on
training it on the others of each of ten folds of patients and scores it on those left out: once
told of effects by the log, once by the prior. Errors are in the world model's z-scores. The open
MIMIC-IV demo gives some ten patients: read the vitals, hardly the outcomes.

    sepsis-gym cohort mimic --mimic-dir PATH/mimic-iv-demo --no-credentialed --out runs/demo-cohort
    python benchmarks/demo_transfer.py --cohort runs/demo-cohort --out runs/demo-transfer
"""

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import tyro
from numpy.typing import NDArray

from sepsis_gym.errors import ConfigError, SepsisGymError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.trajectories import Trajectories
from world_models import ClinicalWorldModel, TrainConfig, load_world_model
from world_models.config import EffectSource
from world_models.fidelity import VITALS, forecast, score
from world_models.fidelity_report import fidelity_table
from world_models.forecast import Predictions, in_scales_of
from world_models.logged import followed
from world_models.references import Persistence
from world_models.training import train_world_model

FOLDS, RESAMPLES = 10, 2000
FINE_TUNING = TrainConfig(
    epochs=20, patience=5, batch_size=4, learning_rate=1e-4, weight_decay=0.01, dropout=0.1
)
TOLD_BY: tuple[EffectSource, ...] = ("log", "prior")
MAP, VASOPRESSOR = FEATURE_INDEX["meanbp"], 0.13


def folds(log: Trajectories, seed: int) -> NDArray[np.int64]:
    """[N] fold of each stay; those of one patient share it."""
    subjects, patient = np.unique(log.stays.subject_id, return_inverse=True)
    if len(subjects) < FOLDS:
        raise ConfigError(f"{FOLDS} folds need as many patients, the cohort has {len(subjects)}")
    order = np.random.default_rng(seed).permutation(len(subjects))
    return (order % FOLDS)[patient]


def fine_tuned(
    config: TrainConfig, log: Trajectories, fold: NDArray[np.int64], left_out: int, folder: Path
) -> ClinicalWorldModel:
    """Goes on training without a fold's patients; the next fold says when to stop."""
    if not folder.exists():
        stops = fold == (left_out + 1) % FOLDS
        split = np.select([fold == left_out, stops], ["test", "validation"], "train")
        mine = replace(log, stays=replace(log.stays, split=split))
        train_world_model(mine, folder, config)
    return load_world_model(folder)


def pressure_response(model: ClinicalWorldModel, log: Trajectories) -> NDArray[np.float64]:
    """[D] rise of MAP under norepinephrine 0.13 against none, mmHg, at every decision."""
    rises = []
    for _, patients in followed(model, log):
        nothing = np.zeros(len(patients), np.float32)
        expected = [
            model.preprocessing.restore(model.predict(patients, nothing, dose)["mean"])[:, MAP]
            for dose in (nothing, nothing + VASOPRESSOR)
        ]
        rises.append(expected[1] - expected[0])
    return np.concatenate(rises).astype(np.float64)


def cross_validated(
    config: TrainConfig, log: Trajectories, fold: NDArray[np.int64], out: Path
) -> tuple[Predictions, float]:
    """Each stay as predicted by the model that never saw its patient, and its pressure response.

    Args:
        config: Of the fine-tuning.
        log: Stays, fold after fold.
        fold: [N] of each stay.
        out: Folder for the fine-tuned models.
    """
    parts, rises = [], []
    for at in range(FOLDS):
        model = fine_tuned(config, log, fold, at, out / f"{config.effects}-{at}")
        stays = log.select(np.flatnonzero(fold == at))
        parts.append(forecast(model, stays))
        rises.append(pressure_response(model, stays))
    together = {
        item.name: np.concatenate([getattr(part, item.name) for part in parts])
        for item in fields(Predictions)
    }
    return Predictions(**together), float(np.concatenate(rises).mean())


def vitals_ratios(
    log: Trajectories, expected: Predictions, simple: Predictions, seed: int
) -> tuple[dict[str, float], NDArray[np.float64]]:
    """Error over that of a simpler forecast: by vital sign; [3] of all, 95% bootstrap interval.

    Stays are resampled; the bounds are percentiles.
    """
    rows = np.flatnonzero(log.is_decision)
    target, counted = log.preprocessing.standardize(log.values[rows + 1]), log.measured[rows + 1]
    stays = log.stay_of_row[rows][:, None] == np.arange(len(log))  # [D, N]
    at = [FEATURE_INDEX[name] for name in VITALS]
    errors = [
        stays.T @ np.where(counted, np.abs(said.mean - target), 0)[:, at]
        for said in (expected, simple)
    ]
    ours, theirs = (error.sum(1) for error in errors)
    drawn = np.random.default_rng(seed).integers(len(log), size=(RESAMPLES, len(log)))
    bounds = np.quantile(ours[drawn].sum(1) / theirs[drawn].sum(1), (0.025, 0.975))
    by_name = dict(zip(VITALS, errors[0].sum(0) / errors[1].sum(0), strict=True))
    return by_name, np.array([ours.sum() / theirs.sum(), *bounds])


def main(cohort: Path, out: Path, model: str = "default", seed: int = 0) -> None:
    """Scores, fine-tunes, scores again, and prints the tables.

    Args:
        cohort: Folder written by ``sepsis-gym cohort mimic``.
        out: Folder for the fine-tuned checkpoints.
        model: Name or folder of the world model to start from.
        seed: Of the folds.
    """
    before = load_world_model(model)
    log = in_scales_of(Trajectories.load(cohort), before.preprocessing)
    out.mkdir(parents=True, exist_ok=True)
    fold = folds(log, seed)
    order = np.argsort(fold, kind="stable")
    log, fold = log.select(order), fold[order]
    expected = {"synthetic only": forecast(before, log)}
    rise = {"synthetic only": float(pressure_response(before, log).mean())}
    for effects in TOLD_BY:
        name, config = f"tuned, {effects}", replace(FINE_TUNING, init=model, effects=effects)
        expected[name], rise[name] = cross_validated(config, log, fold, out)
    simple = forecast(Persistence(before.preprocessing), log)
    columns = {name: score(said, log, log.preprocessing) for name, said in expected.items()}
    columns["persistence"] = score(simple, log, log.preprocessing)
    print(fidelity_table(columns, f"{model} on {len(log)} stays of {log.manifest.source}"))
    for name, said in expected.items():
        by_name, (ratio, low, high) = vitals_ratios(log, said, simple, seed)
        print(
            f"{name}: {'beats' if ratio < 1 else 'DOES NOT BEAT'} persistence on vitals, error "
            f"{ratio:.3f} times as large (95% interval over stays {low:.3f} to {high:.3f}); "
            f"norepinephrine {VASOPRESSOR} raises MAP by {rise[name]:.1f} mmHg"
        )
        print("   " + ", ".join(f"{vital} {times:.2f}" for vital, times in by_name.items()))


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except SepsisGymError as error:
        raise SystemExit(f"error: {error}") from None
