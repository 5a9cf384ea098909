"""Opens the environments by name: one of the two places that know the sibling packages."""

from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium as gym

from sepsis_gym.dynamics import TransitionModel, Ward
from sepsis_gym.envs import SepsisEnv, SepsisReplayEnv, SepsisVectorEnv, SupportConfig
from sepsis_gym.envs.vector import NEXT_STEP
from sepsis_gym.errors import ConfigError
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.reward import RewardConfig
from sepsis_gym.trajectories import Split, Trajectories

ModelLike = TransitionModel | str | PathLike[str]
Stays = Trajectories | str | PathLike[str]
SAMPLE_COHORT = Path(__file__).parent / "sample_cohort"
"""A few dozen synthetic stays, so that replay works straight after installation."""


def resolve_model(model: ModelLike) -> TransitionModel:
    """Returns the world model itself, by its name, or from its folder."""
    if not isinstance(model, str | PathLike):
        return model
    from world_models import available, load_world_model

    name = str(model)
    return _shipped(name) if name in available() else load_world_model(model)


@cache
def _shipped(name: str) -> TransitionModel:
    """A shipped model, held once however many environments are opened over it."""
    from world_models import load_world_model

    return load_world_model(name)


def resolve_stays(trajectories: Stays, split: Split | None) -> Trajectories:
    """Returns logged stays themselves or from their folder, all or those of one split."""
    if not isinstance(trajectories, Trajectories):
        trajectories = Trajectories.load(trajectories)
    return trajectories if split is None else trajectories.split(split)


def make_sepsis_wm(
    model: ModelLike = "default",
    *,
    reward: RewardConfig | None = None,
    support: SupportConfig | None = None,
    start_from: Stays | None = None,
    start_split: Split | None = "test",
    render_mode: str | None = None,
) -> SepsisEnv:
    """Opens ``SepsisWM-v0``: a patient simulated by a learned world model.

    Args:
        model: The world model, its name or its folder.
        reward: The reward; the published one if not given.
        support: Guards against exploiting the model; none if not given.
        start_from: Logged stays, or their folder, to start from; the model draws its starts if not
            given.
        start_split: Which of those; None for all.
        render_mode: ``ansi``, ``rgb_array``, ``human`` or None.
    """
    return SepsisEnv(
        resolve_model(model),
        reward=reward,
        support=support,
        start_from=None if start_from is None else resolve_stays(start_from, start_split),
        render_mode=render_mode,
    )


def make_sepsis_wm_vector(
    num_envs: int,
    model: ModelLike = "default",
    *,
    reward: RewardConfig | None = None,
    support: SupportConfig | None = None,
    start_from: Stays | None = None,
    start_split: Split | None = "test",
    autoreset_mode: object = NEXT_STEP,
) -> SepsisVectorEnv:
    """Opens ``num_envs`` episodes of ``SepsisWM-v0`` in one batch.

    Args:
        num_envs: How many.
        model: As for the single environment, like all but the last.
        reward: The reward.
        support: Guards against exploiting the model.
        start_from: Logged stays to start from.
        start_split: Which of those.
        autoreset_mode: See :class:`~sepsis_gym.envs.vector.SepsisVectorEnv`.
    """
    return SepsisVectorEnv(
        num_envs,
        resolve_model(model),
        reward=reward,
        support=support,
        start_from=None if start_from is None else resolve_stays(start_from, start_split),
        autoreset_mode=autoreset_mode,
    )


def make_sepsis_physio(
    *,
    preprocessing: Preprocessing | None = None,
    reward: RewardConfig | None = None,
    support: SupportConfig | None = None,
    start_from: Stays | None = None,
    render_mode: str | None = None,
) -> SepsisEnv:
    """Opens ``SepsisPhysio-v0``: a mechanistic patient, whose response to treatment is the truth.

    Args:
        preprocessing: Scales and dose levels of the cohort that an agent comes from; those of
            ``SepsisWM-v0`` if not given.
        reward: The reward; the published one if not given.
        support: Changes nothing here, where nothing is in doubt.
        start_from: Is refused: a logged stay does not say which body was behind it.
        render_mode: ``ansi``, ``rgb_array``, ``human`` or None.

    Raises:
        ConfigError: ``start_from`` is given.
    """
    return SepsisEnv(
        mechanistic_model(preprocessing),
        reward=reward,
        support=support,
        start_from=None if start_from is None else resolve_stays(start_from, None),
        render_mode=render_mode,
    )


def make_sepsis_physio_vector(
    num_envs: int,
    *,
    preprocessing: Preprocessing | None = None,
    reward: RewardConfig | None = None,
    support: SupportConfig | None = None,
    autoreset_mode: object = NEXT_STEP,
) -> SepsisVectorEnv:
    """Opens ``num_envs`` episodes of ``SepsisPhysio-v0`` in one batch.

    Args:
        num_envs: How many.
        preprocessing: As for the single environment, like all but the last.
        reward: The reward.
        support: Changes nothing here.
        autoreset_mode: See :class:`~sepsis_gym.envs.vector.SepsisVectorEnv`.
    """
    return SepsisVectorEnv(
        num_envs,
        mechanistic_model(preprocessing),
        reward=reward,
        support=support,
        autoreset_mode=autoreset_mode,
    )


def mechanistic_model(preprocessing: Preprocessing | None) -> TransitionModel:
    """The mechanistic patient."""
    from world_models import MechanisticModel

    return MechanisticModel(preprocessing)


def ward_of(trajectories: Trajectories) -> Ward:
    """The patients that a synthetic cohort is a sample of, to be treated by anybody.

    Raises:
        ConfigError: The cohort is not synthetic, or built otherwise than a true value needs.
    """
    built = trajectories.manifest.config
    if "synthetic" not in built:
        raise ConfigError(
            f"{trajectories.manifest.source}: no true value is known of real patients; "
            "make a cohort with: sepsis-gym cohort synthetic"
        )
    from world_models.physiology.clinician import ClinicianConfig
    from world_models.physiology.records.treated import MechanisticWard

    return MechanisticWard(
        trajectories.preprocessing,
        ClinicianConfig(**built["synthetic"]["clinician"]),
        RewardConfig(**built["reward"]),
    )


def make_sepsis_replay(
    trajectories: Stays = SAMPLE_COHORT,
    *,
    split: Split | None = None,
    model: ModelLike | None = "default",
    render_mode: str | None = None,
) -> SepsisReplayEnv:
    """Opens ``SepsisReplay-v0``: logged stays.

    Args:
        trajectories: The stays or their folder.
        split: Keep the stays of one split only.
        model: World model for ``simulate``; None for none.
        render_mode: ``ansi``, ``rgb_array``, ``human`` or None.
    """
    resolved = None if model is None else resolve_model(model)
    stays = resolve_stays(trajectories, split)
    return SepsisReplayEnv(stays, model=resolved, render_mode=render_mode)


def register_environments() -> None:
    """Registers every environment with Gymnasium."""
    here = "sepsis_gym.registration"
    entries: dict[str, dict[str, Any]] = {
        "SepsisWM-v0": {
            "entry_point": f"{here}:make_sepsis_wm",
            "vector_entry_point": f"{here}:make_sepsis_wm_vector",
        },
        "SepsisPhysio-v0": {
            "entry_point": f"{here}:make_sepsis_physio",
            "vector_entry_point": f"{here}:make_sepsis_physio_vector",
        },
        "SepsisReplay-v0": {"entry_point": f"{here}:make_sepsis_replay"},
    }
    for name, entry in entries.items():
        if name not in gym.registry:
            gym.register(id=name, **entry)
