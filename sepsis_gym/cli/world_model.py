"""``sepsis-gym world-model``: train one, and say how faithful it is."""

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import OmitArgPrefixes
from tyro.extras import SubcommandApp

from sepsis_gym.errors import ConfigError
from sepsis_gym.files import check_target, whole_folder
from sepsis_gym.trajectories import Split, Trajectories
from world_models import TrainConfig, load_world_model

if TYPE_CHECKING:
    from world_models.forecast import Predictions

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
    cohort: Path,
    model: str = "default",
    split: Split = "test",
    references: bool = False,
    out: Path | None = None,
) -> None:
    """Prints how well a world model predicts held-out stays, beside persistence and ridge.

    Of simulated patients also what it knows of treatment: predicted against true effects, and
    whether stays that it simulates end as true ones do.

    Args:
        cohort: Folder written by ``sepsis-gym cohort``.
        model: Name of a shipped world model, or a checkpoint folder.
        split: Which stays.
        references: Whether to train the published architecture on the cohort too (minutes), and to
            compute the floor where the patients are simulated.
        out: Folder for fidelity.json, fidelity.md and figures (the ``figures`` extra); nothing is
            written if not given. Effects lie in effects.json, survival in survival.json.
    """
    from world_models.effect_fidelity import effect_json, effect_table, evaluate_effects
    from world_models.fidelity import forecast, score
    from world_models.fidelity_report import fidelity_json, fidelity_markdown, fidelity_table
    from world_models.forecast import in_scales_of
    from world_models.physiology.effects import truth_is_known
    from world_models.survival import evaluate_survival, survival_json, survival_table

    if out is not None:
        from world_models.fidelity_figures import write_figures

        check_target(out)
    world_model = load_world_model(model)
    whole = in_scales_of(Trajectories.load(cohort), world_model.preprocessing)
    held_out = whole.split(split)
    expected: dict[str, Predictions] = {"world model": forecast(world_model, held_out)}
    expected |= _simple(whole, held_out)
    if references:
        expected |= _demanding(whole, held_out)
    columns = {n: score(e, held_out, whole.preprocessing) for n, e in expected.items()}
    title = f"{model} on {len(held_out)} {split} stays of {whole.manifest.source}"
    print(fidelity_table(columns, title))
    effects, survival = [], []
    if truth_is_known(held_out):
        effects = evaluate_effects(world_model, held_out)
        print(effect_table(effects))
        survival = evaluate_survival(world_model, held_out)
        print(survival_table(survival))
    if out is not None:
        about = {
            "model": model,
            "cohort": whole.manifest.source,
            "credentialed": whole.manifest.credentialed,
            "split": split,
            "stays": len(held_out),
        }
        with whole_folder(out) as folder:
            content = json.dumps(fidelity_json(columns, about), indent=1)
            (folder / "fidelity.json").write_text(content)
            page = f"# {title}\n\n{fidelity_markdown(columns)}"
            (folder / "fidelity.md").write_text(page)
            if effects:
                (folder / "effects.json").write_text(json.dumps(effect_json(effects), indent=1))
                (folder / "survival.json").write_text(json.dumps(survival_json(survival), indent=1))
            write_figures(folder, world_model, held_out, expected["world model"], effects)
        if whole.manifest.credentialed:
            print("fans.png is left out: it would show single stays of credentialed data")
        print(f"written to {out}")


@app.command(name="card")
def card(out: Path, model: str = "default", fidelity: Path | None = None) -> None:
    """Writes a world model's card: what it is, learned from what, and what it is not for.

    Args:
        out: Markdown file to write.
        model: Name of a shipped world model, or a checkpoint folder.
        fidelity: fidelity.json written by ``sepsis-gym world-model evaluate``.
    """
    from world_models.card import model_card
    from world_models.checkpoint import load_provenance

    if out.is_dir():
        raise ConfigError(f"{out}: is a folder; name a file")
    text = model_card(model, load_world_model(model), load_provenance(model), fidelity)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(text)
    os.replace(partial, out)
    print(f"written to {out}")


def _simple(whole: Trajectories, held_out: Trajectories) -> "dict[str, Predictions]":
    """What takes seconds."""
    from world_models.fidelity import forecast
    from world_models.references import LinearModel, Persistence

    return {
        "persistence": forecast(Persistence(whole.preprocessing), held_out),
        "ridge": forecast(LinearModel.fit(whole.split("train")), held_out),
    }


def _demanding(whole: Trajectories, held_out: Trajectories) -> "dict[str, Predictions]":
    """What takes minutes."""
    from world_models.fidelity import forecast
    from world_models.floor import floor
    from world_models.physiology.effects import truth_is_known
    from world_models.published import train_published

    expected = {"published": forecast(train_published(whole), held_out)}
    if truth_is_known(held_out):
        expected["floor, errors unknown"] = floor(held_out, errors_known=False)
        expected["floor"] = floor(held_out)
    return expected
