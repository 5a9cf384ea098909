"""What a world model learns of treatment effects, by how the log was made and what it was told.

    pip install -e ".[torch]"
    python benchmarks/world_model_effects.py

Trains small models on synthetic cohorts that differ in how clinicians dose: every hour as at the
bedside, once per step, with some decisions at random, all at random. Each is trained on the log
alone, with the prior, and with the truth's help; the ceiling is trained on true effects and nothing
else. Judged on each cohort's own test split. Cohorts and models are kept: a second run only prints.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from sepsis_gym.cli.cohort import build_synthetic
from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.trajectories import Trajectories
from world_models import TrainConfig, load_world_model
from world_models.effect_fidelity import EffectScore, evaluate_effects
from world_models.fidelity import evaluate_fidelity
from world_models.forecast import Forecaster
from world_models.physiology import ACTION_HOURS, ClinicianConfig
from world_models.published import train_published
from world_models.training import train_world_model

_ONCE = ClinicianConfig(decision_interval_hours=ACTION_HOURS)
LOGS = {
    "every hour": ClinicianConfig(),
    "every hour, no hidden cue": ClinicianConfig(cue_strength=0),
    "every hour, strong cue": ClinicianConfig(cue_strength=2),
    "once per step": _ONCE,
    "once per step, 10% random": replace(_ONCE, exploration=0.1),
    "once per step, 30% random": replace(_ONCE, exploration=0.3),
    "randomised": ClinicianConfig(rct=True),
}
SMALL = TrainConfig(members=1, hidden=64, epochs=15, learning_rate=2e-3)
TOLD = {
    "log": replace(SMALL, effects="log"),
    "prior": replace(SMALL, effects="prior"),
    "truth": replace(SMALL, effects="truth"),
    "ceiling": replace(SMALL, effects="truth", level_weight=0.0, open_loop_share=0.0),
}


def main(
    patients: int = 2500,
    seed: int = 5,
    folder: Path = Path("runs/effects"),
    published: bool = False,
) -> None:
    """Trains and judges every pair of a log and a teacher.

    Args:
        patients: Of each cohort.
        seed: Of each cohort.
        folder: Where cohorts and models are kept.
        published: Whether to train the published architecture on each log too (a minute or two
            each, every time).
    """
    table = Table(title=f"Effects learned from {patients} patients' logs: mean (r per patient)")
    for name in ("log", "told by", "one step", "12 steps", "0.13 on MAP", "500 mL on MAP",
                 "500 mL on urine", "both on death, %"):  # fmt: skip
        table.add_column(name, no_wrap=True)
    for log, clinician in LOGS.items():
        cohort = _cohort(folder / _slug(log), patients, seed, clinician)
        test = cohort.split("test")
        models: dict[str, Forecaster] = {}
        for told, config in TOLD.items():
            out = folder / f"{_slug(log)}-{told}"
            if not out.exists():
                train_world_model(cohort, out, config)
            models[told] = load_world_model(out)
        if published:
            models["log, published"] = train_published(cohort)
        scores: list[EffectScore] = []
        for told, model in models.items():
            scores = evaluate_effects(model, test)
            fidelity = evaluate_fidelity(model, test)
            errors = [fidelity["one_step_mae"], fidelity["open_loop_12_mae"]]
            levels = ["-", "-"] if told == "ceiling" else [f"{error:.3f}" for error in errors]
            effects = [f"{s.predicted.mean():.2f} ({s.correlation:.2f})" for s in scores]
            table.add_row(log, told, *levels, *effects)
        table.add_row(log, "the truth", "", "", *(f"{s.true.mean():.2f}" for s in scores))
        table.add_section()
    Console(width=140).print(table)


def _slug(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name)


def _cohort(folder: Path, patients: int, seed: int, clinician: ClinicianConfig) -> Trajectories:
    if not folder.exists():
        partial = folder.with_name(f".{folder.name}")
        shutil.rmtree(partial, ignore_errors=True)
        build_synthetic(partial, patients, seed, AssemblyConfig(), clinician, tables=False)
        partial.rename(folder)
    return Trajectories.load(folder)


if __name__ == "__main__":
    tyro.cli(main)
