"""Opens the environments by name: one of the two places that know the sibling packages."""

from os import PathLike
from pathlib import Path
from typing import Any

import gymnasium as gym

from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.envs import SepsisEnv, SepsisReplayEnv, SepsisVectorEnv
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.reward import RewardConfig
from sepsis_gym.trajectories import Split, Trajectories

ModelLike = TransitionModel | str | PathLike[str]
SAMPLE_COHORT = Path(__file__).parent / "sample_cohort"
"""A few dozen synthetic stays, so that replay works straight after installation."""


def resolve_model(model: ModelLike) -> TransitionModel:
    """Returns the world model itself, by its name, or from its folder."""
    if isinstance(model, str | PathLike):
        from world_models import load_world_model

        return load_world_model(model)
    return model


def make_sepsis_wm(
    model: ModelLike = "default",
    *,
    reward: RewardConfig | None = None,
    render_mode: str | None = None,
) -> SepsisEnv:
    """Opens ``SepsisWM-v0``: a patient simulated by a learned world model."""
    return SepsisEnv(resolve_model(model), reward=reward, render_mode=render_mode)


def make_sepsis_wm_vector(
    num_envs: int,
    model: ModelLike = "default",
    *,
    reward: RewardConfig | None = None,
) -> SepsisVectorEnv:
    """Opens ``num_envs`` episodes of ``SepsisWM-v0`` in one batch."""
    return SepsisVectorEnv(num_envs, resolve_model(model), reward=reward)


def make_sepsis_physio(
    *,
    preprocessing: Preprocessing | None = None,
    reward: RewardConfig | None = None,
    render_mode: str | None = None,
) -> SepsisEnv:
    """Opens ``SepsisPhysio-v0``: a mechanistic patient, whose response to treatment is the truth.

    Args:
        preprocessing: Scales and dose levels of the cohort that an agent comes from; those of
            ``SepsisWM-v0`` if not given.
        reward: The reward; the published one if not given.
        render_mode: ``ansi`` or None.
    """
    model = mechanistic_model(preprocessing)
    return SepsisEnv(model, reward=reward, render_mode=render_mode)


def make_sepsis_physio_vector(
    num_envs: int,
    *,
    preprocessing: Preprocessing | None = None,
    reward: RewardConfig | None = None,
) -> SepsisVectorEnv:
    """Opens ``num_envs`` episodes of ``SepsisPhysio-v0`` in one batch."""
    return SepsisVectorEnv(num_envs, mechanistic_model(preprocessing), reward=reward)


def mechanistic_model(preprocessing: Preprocessing | None) -> TransitionModel:
    """The mechanistic patient."""
    from world_models import MechanisticModel

    return MechanisticModel(preprocessing)


def make_sepsis_replay(
    trajectories: Trajectories | str | PathLike[str] = SAMPLE_COHORT,
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
        render_mode: ``ansi`` or None.
    """
    if not isinstance(trajectories, Trajectories):
        trajectories = Trajectories.load(trajectories)
    if split is not None:
        trajectories = trajectories.split(split)
    resolved = None if model is None else resolve_model(model)
    return SepsisReplayEnv(trajectories, model=resolved, render_mode=render_mode)


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
