"""``sepsis-gym world-model``: train one, and measure how faithful it is."""

import json
from pathlib import Path
from typing import Annotated

from tyro.conf import OmitArgPrefixes
from tyro.extras import SubcommandApp

from sepsis_gym.trajectories import Split, Trajectories
from world_models import TrainConfig, load_world_model

app = SubcommandApp()


@app.command(name="train")
def train(
    cohort: Path,
    out: Path,
    config: Annotated[TrainConfig, OmitArgPrefixes] = TrainConfig(),  # noqa: B008
) -> None:
    """Trains a world model on a cohort; run again after an interruption, it goes on.

    Args:
        cohort: Folder written by ``sepsis-gym cohort``.
        out: Checkpoint folder to write; usable as ``gym.make("SepsisWM-v0", model=OUT)``.
        config: Size and training.
    """
    from world_models.training import train_world_model

    train_world_model(Trajectories.load(cohort), out, config)
    print(f"written to {out}")


@app.command(name="evaluate")
def evaluate(
    cohort: Path, model: str = "default", split: Split = "test", out: Path | None = None
) -> None:
    """Prints how well a world model predicts held-out stays, beside persistence.

    Args:
        cohort: Folder written by ``sepsis-gym cohort``.
        model: Name of a shipped world model, or a checkpoint folder.
        split: Which stays.
        out: JSON file to write the numbers to.
    """
    from world_models.fidelity import evaluate_fidelity, fidelity_table

    numbers = evaluate_fidelity(load_world_model(model), Trajectories.load(cohort).split(split))
    print(fidelity_table(numbers))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(numbers, indent=1))
