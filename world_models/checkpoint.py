"""World models on disk: ``model.json`` and ``model.safetensors``, never a pickle."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sepsis_gym.errors import CheckpointError, ConfigError, UnknownNameError
from sepsis_gym.files import whole_folder
from sepsis_gym.preprocessing import Preprocessing
from world_models.model import ClinicalWorldModel
from world_models.noise import Noise
from world_models.start_states import StartStates

FORMAT_VERSION = 6
DESCRIPTION_FILE, WEIGHTS_FILE = "model.json", "model.safetensors"
_SHIPPED = Path(__file__).parent / "checkpoints"
_START = "start_states."
_NOISE = "noise."


def available() -> list[str]:
    """Names of the world models that ship with the package."""
    return sorted(path.parent.name for path in _SHIPPED.glob(f"*/{DESCRIPTION_FILE}"))


def load_world_model(
    name: str | os.PathLike[str], *, threads: int = 1, device: str | None = None
) -> ClinicalWorldModel:
    """Loads a world model.

    Args:
        name: A shipped model's name, or a checkpoint folder.
        threads: How many blocks of patients are computed at a time.
        device: Where torch runs the network, such as ``cuda``; None for numpy.

    Raises:
        UnknownNameError: It is neither.
        CheckpointError: The folder is broken; names the file.
        ConfigError: The threads or the device cannot be.
    """
    folder = _folder(name)
    description = _read_description(folder / DESCRIPTION_FILE)
    preprocessing = _preprocessing(description, folder / DESCRIPTION_FILE)
    file = folder / WEIGHTS_FILE
    try:
        content = file.read_bytes()
        if hashlib.sha256(content).hexdigest() != description["weights_sha256"]:
            raise ValueError(f"it is not the file that {DESCRIPTION_FILE} describes")
        arrays = {key: array.astype(np.float32) for key, array in load(content).items()}
        start, noise = _under(_START, arrays), _under(_NOISE, arrays)
        weights = {k: v for k, v in arrays.items() if not k.startswith((_START, _NOISE))}
        if bad := [name for name, array in arrays.items() if not np.isfinite(array).all()]:
            raise ValueError(f"{bad[0]} holds numbers that are not finite")
        spread, starts = Noise(**noise), StartStates(**start)
        model = ClinicalWorldModel(
            preprocessing, weights, starts, spread, threads=threads, device=device
        )
        rng = np.random.default_rng(0)
        model.step(model.start(2, rng), np.ones(2), np.ones(2), rng)  # do all shapes fit together?
        return model
    except ConfigError:  # of threads and device, not of the file
        raise
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: is no world model: {error}") from error


def load_preprocessing(name: str | os.PathLike[str]) -> Preprocessing:
    """Clock, scales and dose levels of a world model, without its weights.

    Args:
        name: A shipped model's name, or a checkpoint folder.

    Raises:
        UnknownNameError: It is neither.
        CheckpointError: The description is broken; names the file.
    """
    file = _folder(name) / DESCRIPTION_FILE
    return _preprocessing(_read_description(file), file)


def load_provenance(name: str | os.PathLike[str]) -> dict[str, Any]:
    """What a world model was trained on and how, as it stands in its description.

    Args:
        name: A shipped model's name, or a checkpoint folder.

    Raises:
        UnknownNameError: It is neither.
        CheckpointError: The description is broken or says nothing; names the file.
    """
    file = _folder(name) / DESCRIPTION_FILE
    provenance = _read_description(file).get("provenance")
    if not isinstance(provenance, dict):
        raise CheckpointError(f"{file}: provenance is missing; train the model again")
    return provenance


def save_world_model(
    model: ClinicalWorldModel, folder: str | os.PathLike[str], provenance: dict[str, Any]
) -> None:
    """Writes a checkpoint whole or not at all.

    Args:
        model: The model.
        folder: Where to.
        provenance: What it was trained on and how, plain JSON.
    """
    # the model already holds numbers that float16 can (see ``ClinicalWorldModel``)
    arrays: dict[str, Any] = {k: w.astype(np.float16) for k, w in model.weights.items()}
    for name in ("quantiles", "threshold", "factor", "younger"):  # views would be stored wrongly
        arrays[_START + name] = np.ascontiguousarray(getattr(model.start_states, name))
    for name in ("factor", "quantiles", "lasting"):
        arrays[_NOISE + name] = np.ascontiguousarray(getattr(model.noise, name))
    content = save(arrays)
    description = {
        "format_version": FORMAT_VERSION,
        "weights_sha256": hashlib.sha256(content).hexdigest(),
        "preprocessing": model.preprocessing.to_dict(),
        "provenance": provenance,
    }
    with whole_folder(folder) as temporary:
        # not ``save_file``, which makes the file readable for its owner only
        (temporary / WEIGHTS_FILE).write_bytes(content)
        (temporary / DESCRIPTION_FILE).write_text(json.dumps(description, indent=1))


def _under(prefix: str, arrays: dict[str, Any]) -> dict[str, Any]:
    return {k.removeprefix(prefix): v for k, v in arrays.items() if k.startswith(prefix)}


def _folder(name: str | os.PathLike[str]) -> Path:
    shipped = str(name) in available()
    folder = _SHIPPED / str(name) if shipped else Path(name)
    if not folder.is_dir():
        raise UnknownNameError(
            f"no world model {str(name)!r}; there are {', '.join(available()) or 'none'}, "
            "or give a checkpoint folder"
        )
    return folder


def _preprocessing(description: dict[str, Any], file: Path) -> Preprocessing:
    try:
        return Preprocessing.from_dict(description["preprocessing"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: preprocessing: {error}") from error


def _read_description(file: Path) -> dict[str, Any]:
    try:
        description: Any = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    if not isinstance(description, dict) or description.get("format_version") != FORMAT_VERSION:
        found = description.get("format_version") if isinstance(description, dict) else description
        raise CheckpointError(
            f"{file}: format_version {found} is not {FORMAT_VERSION}; train the model again"
        )
    checked: dict[str, Any] = description
    return checked
