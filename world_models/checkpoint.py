"""World models on disk: ``model.json`` and ``model.safetensors``, never a pickle."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from sepsis_gym.errors import CheckpointError, UnknownNameError
from sepsis_gym.files import whole_folder
from sepsis_gym.preprocessing import Preprocessing
from world_models.model import ClinicalWorldModel
from world_models.start_states import StartStates

FORMAT_VERSION = 1
DESCRIPTION_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"
_SHIPPED = Path(__file__).parent / "checkpoints"
_START = "start_states."


def available() -> list[str]:
    """Names of the world models that ship with the package."""
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{DESCRIPTION_FILE}"))


def load_world_model(name: str | os.PathLike[str]) -> ClinicalWorldModel:
    """Loads a world model.

    Args:
        name: A shipped model's name, or a checkpoint folder.

    Raises:
        UnknownNameError: It is neither.
        CheckpointError: The folder is broken; names the file.
    """
    shipped = str(name) in available()
    folder = _SHIPPED / str(name) if shipped else Path(name)
    if not folder.is_dir():
        raise UnknownNameError(
            f"no world model {str(name)!r}; there are {', '.join(available())}, "
            "or give a checkpoint folder"
        )
    description = _read_description(folder / DESCRIPTION_FILE)
    file = folder / WEIGHTS_FILE
    try:
        arrays = {key: array.astype(np.float32) for key, array in load_file(file).items()}
        start = {k.removeprefix(_START): v for k, v in arrays.items() if k.startswith(_START)}
        weights = {k: v for k, v in arrays.items() if not k.startswith(_START)}
        preprocessing = Preprocessing.from_dict(description["preprocessing"])
        return ClinicalWorldModel(preprocessing, weights, StartStates(**start))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: is no world model: {error}") from error


def save_world_model(
    model: ClinicalWorldModel, folder: str | os.PathLike[str], provenance: dict[str, Any]
) -> None:
    """Writes a checkpoint whole or not at all.

    Args:
        model: The model.
        folder: Where to.
        provenance: What it was trained on and how, plain JSON.
    """
    arrays = dict(model.weights)
    for name in ("quantiles", "factor"):  # safetensors would store a transposed view wrongly
        arrays[_START + name] = np.ascontiguousarray(getattr(model.start_states, name))
    description = {
        "format_version": FORMAT_VERSION,
        "preprocessing": model.preprocessing.to_dict(),
        "provenance": provenance,
    }
    with whole_folder(folder) as temporary:
        save_file(arrays, temporary / WEIGHTS_FILE)
        (temporary / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1))


def _read_description(file: Path) -> dict[str, Any]:
    try:
        description: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    if description.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"{file}: format_version {description.get('format_version')} is not {FORMAT_VERSION}; "
            "train the model again"
        )
    return description
