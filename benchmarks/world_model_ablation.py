"""What each part of the world model is good for: one part less, or other, at a time.

    pip install -e ".[torch]"
    python benchmarks/world_model_ablation.py

Trains small models on one synthetic cohort like that of ``default``, told by the truth, and judges
them on its test split: levels, outcomes, effects of treatment, and whether simulated stays end as
true ones do. One training each: small differences are luck. Models are kept: a second run only
prints.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from sepsis_gym.cli.cohort import build_synthetic
from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.trajectories import Trajectories
from world_models import TrainConfig, load_world_model, losses, network
from world_models.effect_fidelity import evaluate_effects
from world_models.effects import Effects
from world_models.fidelity import evaluate_fidelity
from world_models.physiology import ClinicianConfig
from world_models.physiology.effects import true_effects
from world_models.survival import evaluate_survival
from world_models.training import train_world_model

WHOLE = TrainConfig(
    hidden=64, epochs=15, batch_size=64, learning_rate=3e-3, effects="truth", effect_share=0.5
)
TREATED = 2048
"""Patients of each treatment whose survivors are counted."""


def _likelihood(error: Tensor, scale: Tensor) -> Tensor:
    """A Gaussian's, in place of the CRPS and its weight."""
    return (0.5 * (error / scale) ** 2 + torch.log(scale)) / losses._VALUE_WEIGHT


def _from_nothing(train: Any, weight: Tensor) -> tuple[float, float]:
    """In place of the regressions that the straight path starts from."""
    return 0.0, 0.0


def _no_risk(log: Trajectories, seed: int) -> Effects:
    """Told of the features' effects, not of death in the step or within 90 days."""
    told = true_effects(log, seed)
    return replace(told, died=np.full_like(told.died, np.nan), risk=np.full_like(told.risk, np.nan))


def _bent(self: network.EnsembleNetwork, *args: Any, aside: bool = False) -> tuple[Tensor, Tensor]:
    """The hidden units learn from 90-day mortality too."""
    return _forward(self, *args)


_forward: Callable[..., tuple[Tensor, Tensor]] = network.EnsembleNetwork.forward


@dataclass(frozen=True)
class Variant:
    """Settings other than of the whole, and code in place of other."""

    settings: dict[str, Any] = field(default_factory=dict)
    patches: dict[str, Any] = field(default_factory=dict)


VARIANTS = {
    "the whole": Variant(),
    "goes on from its own predictions": Variant({"simulated_share": 0.5}),
    "always shown the next state": Variant({"open_loop_share": 0.0}),
    "straight path from nothing": Variant(patches={"training.fit_straight": _from_nothing}),
    "likelihood for CRPS": Variant(patches={"losses._gaussian_crps": _likelihood}),
    "mortality bends the trunk": Variant(patches={"network.EnsembleNetwork.forward": _bent}),
    "one member": Variant({"members": 1}),
    "32 units": Variant({"hidden": 32}),
    "128 units": Variant({"hidden": 128}),
    "deaths and risk untold": Variant(patches={"training.true_effects": _no_risk}),
    "told by the prior": Variant({"effects": "prior"}),
    "told by nobody": Variant({"effects": "log"}),
}


def main(patients: int = 3000, seed: int = 6, folder: Path = Path("runs/ablation")) -> None:
    """Trains and judges every variant.

    Args:
        patients: Of the cohort.
        seed: Of the cohort.
        folder: Where cohort and models are kept.
    """
    table = Table(title=f"One part other at a time, {patients} patients, one training each")
    for name in ("", "one step", "12 steps", "vent. AUROC", "death AUROC", "MAP, mmHg (r)",
                 "fluid on MAP (r)", "urine, mL (r)", "24-h risk, % (r)",
                 "survival, off by"):  # fmt: skip
        table.add_column(name, no_wrap=True)
    cohort = _cohort(folder / "cohort", patients, seed)
    test = cohort.split("test")
    true: list[str] = []
    for name, variant in VARIANTS.items():
        out = folder / name.replace(" ", "-")
        if not out.exists():
            _train(cohort, out, variant)
        model = load_world_model(out)
        levels = evaluate_fidelity(model, test)
        effects = evaluate_effects(model, test)
        gaps = [abs(score.gap) for score in evaluate_survival(model, test, TREATED)]
        true = [f"{score.true.mean():.2f}" for score in effects]
        table.add_row(
            name,
            *(f"{levels[key]:.3f}" for key in ("one_step_mae", "open_loop_12_mae")),
            *(f"{levels[key]:.3f}" for key in ("ventilation_auroc", "mortality_auroc_at_24h")),
            *(f"{score.predicted.mean():.2f} ({score.correlation:.2f})" for score in effects),
            f"{100 * np.mean(gaps):.1f} ({100 * max(gaps):.1f})",
        )
    table.add_row("the truth", "", "", "", "", *true, "")
    console = Console(width=190)
    console.print(table)
    console.print(
        "Survival: mean (largest) distance from the truth under the treatments of\n"
        "world_models.survival, points. Research software, never for patient care."
    )


def _train(cohort: Trajectories, out: Path, variant: Variant) -> None:
    with ExitStack() as stack:
        for name, code in variant.patches.items():
            stack.enter_context(patch(f"world_models.{name}", code))
        train_world_model(cohort, out, replace(WHOLE, **variant.settings))


def _cohort(folder: Path, patients: int, seed: int) -> Trajectories:
    if not folder.exists():
        clinician = ClinicianConfig(exploration=0.1, unusual=0.4)
        build_synthetic(folder, patients, seed, AssemblyConfig(), clinician, tables=False)
    return Trajectories.load(folder)


if __name__ == "__main__":
    tyro.cli(main)
