"""The world model beside its yardsticks over several training seeds: mean, spread, verdicts.

Trains the world model and the published architecture anew for each seed on one cohort, scores all
on its test split, and says which targets are met. What is trained is kept in ``--out``; run again,
it goes on.

    sepsis-gym cohort synthetic --patients 4000 --seed 1 --decision-interval-hours 4 \
        --exploration 0.3 --no-tables --out runs/fidelity-cohort
    python benchmarks/world_model_fidelity.py --cohort runs/fidelity-cohort --out runs/fidelity \
        --effects log
"""

import json
import math
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from sepsis_gym.errors import ConfigError, SepsisGymError
from sepsis_gym.trajectories import Trajectories
from world_models import TrainConfig, load_world_model
from world_models.checkpoint import load_provenance
from world_models.fidelity import Numbers, evaluate_fidelity, score
from world_models.fidelity_report import ROWS, from_plain, to_plain
from world_models.floor import floor
from world_models.physiology.effects import truth_is_known
from world_models.published import train_published
from world_models.references import LinearModel, Persistence
from world_models.training import train_world_model

LOWER = ("one_step_mae", "vitals_mae", "open_loop_12_mae", "one_step_crps")
"""Level metrics, the smaller the better; ours must beat all others by more than the spread."""
HIGHER = ("ventilation_auroc", "mortality_auroc_at_24h", "mortality_auprc_at_24h")
ONE_STEP_TIMES_FLOOR, OPEN_LOOP_TIMES_FLOOR, OPEN_LOOP_LEAD = 1.25, 1.33, 0.05
COVERAGE = (0.88, 0.92)

Scores = dict[str, list[Numbers]]


def published(cohort: Trajectories, seed: int, file: Path) -> Numbers:
    """Scores of the published architecture, of an earlier run if there was one."""
    if not file.exists():
        numbers = evaluate_fidelity(train_published(cohort, seed=seed), cohort.split("test"))
        partial = file.with_suffix(".partial")
        content = {"content_hash": cohort.content_hash, "scores": to_plain(numbers)}
        partial.write_text(json.dumps(content))
        os.replace(partial, file)
    content = json.loads(file.read_text())
    _same(file, content["content_hash"], cohort.content_hash)
    return from_plain(content["scores"])


def world_model(cohort: Trajectories, config: TrainConfig, folder: Path) -> Numbers:
    """Scores of the world model, trained if it was not yet."""
    if not folder.exists():
        train_world_model(cohort, folder, config)
    provenance = load_provenance(folder)
    _same(folder, provenance["content_hash"], cohort.content_hash)
    _same(folder, provenance["config"], asdict(config))
    return evaluate_fidelity(load_world_model(folder), cohort.split("test"))


def _same(path: Path, was: object, now: object) -> None:
    if was != now:
        raise ConfigError(f"{path}: is of another cohort or other settings; name another --out")


def scored(cohort: Trajectories, out: Path, config: TrainConfig, seeds: int) -> Scores:
    """Trains what is not there yet, and scores it on the test split."""
    test, own = cohort.split("test"), cohort.preprocessing
    scores: Scores = {"world model": [], "published": []}
    for seed in range(seeds):
        mine = world_model(cohort, replace(config, seed=seed), out / f"world-model-{seed}")
        scores["world model"].append(mine)
        scores["published"].append(published(cohort, seed, out / f"published-{seed}.json"))
    scores["ridge"] = [evaluate_fidelity(LinearModel.fit(cohort.split("train")), test)]
    scores["persistence"] = [evaluate_fidelity(Persistence(own), test)]
    if truth_is_known(cohort):
        unknown = floor(test, errors_known=False)
        scores["floor, errors unknown"] = [score(unknown, test, own)]
        scores["floor"] = [score(floor(test), test, own)]
    return scores


def mean_and_spread(scores: list[Numbers], name: str) -> tuple[float, float]:
    """Over the seeds; the spread is the standard deviation, 0 for what has no seed."""
    values = [numbers[name] for numbers in scores]
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def verdicts(scores: Scores) -> list[tuple[str, str, bool]]:
    """(target, what came, whether it is met)."""

    def of(column: str, name: str) -> tuple[float, float]:
        return mean_and_spread(scores[column], name)

    rows = []
    for name in (*LOWER, *HIGHER):
        sign = -1 if name in LOWER else 1
        mean, spread = of("world model", name)
        for column in ("published", "ridge", "persistence"):
            other, others_spread = of(column, name)
            if not math.isnan(other):
                lead, needed = sign * (mean - other), max(spread, others_spread)
                told = f"by {lead:+.4f}, spread {needed:.4f}"
                rows.append((f"{ROWS[name]}: better than {column}", told, lead > needed))
    ahead = of("published", "open_loop_12_mae")[0] - of("world model", "open_loop_12_mae")[0]
    target = f"open loop at least {OPEN_LOOP_LEAD} under published"
    rows.append((target, f"{ahead:+.4f}", ahead >= OPEN_LOOP_LEAD))
    covered = of("world model", "interval_90_coverage")[0]
    inside = COVERAGE[0] <= covered <= COVERAGE[1]
    rows.append(
        (f"90% intervals cover {COVERAGE[0]:.0%} to {COVERAGE[1]:.0%}", f"{covered:.1%}", inside)
    )
    limits = {"one_step_mae": ONE_STEP_TIMES_FLOOR, "open_loop_12_mae": OPEN_LOOP_TIMES_FLOOR}
    for name, limit in limits.items():
        for column in ("floor", "floor, errors unknown"):
            if column in scores:
                times = of("world model", name)[0] / of(column, name)[0]
                target = f"{ROWS[name]} at most {limit} x {column}"
                rows.append((target, f"{times:.3f} x", times <= limit))
    return rows


def show(scores: Scores, seeds: int) -> None:
    """Prints both tables."""
    table = Table("measure", title=f"Test split, {seeds} training seeds: mean ± spread (sd)")
    for column in scores:
        table.add_column(column, justify="right")
    for name, label in ROWS.items():
        cells = []
        for numbers in scores.values():
            mean, spread = mean_and_spread(numbers, name)
            shown = f"{mean:.4f}" + (f" ± {spread:.4f}" if len(numbers) > 1 else "")
            cells.append("n/a" if math.isnan(mean) else shown)
        table.add_row(label, *cells)
    targets = Table("target", "value", "", title="Verdicts")
    checked = verdicts(scores)
    for target, value, met in checked:
        targets.add_row(target, value, "met" if met else "NOT MET", style="" if met else "bold")
    console = Console(width=160)
    console.print(table)
    console.print(targets)
    console.print(f"{sum(met for *_, met in checked)} of {len(checked)} targets met")
    console.print("Research software, never for patient care.")


def main(
    cohort: Path,
    out: Path,
    seeds: int = 5,
    config: Annotated[TrainConfig, tyro.conf.OmitArgPrefixes] = TrainConfig(),  # noqa: B008
) -> None:
    """Trains, scores and prints.

    Args:
        cohort: Folder written by ``sepsis-gym cohort synthetic``.
        out: Folder for checkpoints and scores.
        seeds: How many trainings of each; their seeds are 0, 1, ...
        config: Size and training of the world model; its seed is replaced.
    """
    out.mkdir(parents=True, exist_ok=True)
    scores = scored(Trajectories.load(cohort), out, config, seeds)
    plain = {name: [to_plain(numbers) for numbers in column] for name, column in scores.items()}
    (out / "scores.json").write_text(json.dumps(plain, indent=1))
    show(scores, seeds)


if __name__ == "__main__":
    try:
        tyro.cli(main)
    except SepsisGymError as error:
        raise SystemExit(f"error: {error}") from None
