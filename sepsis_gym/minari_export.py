"""Stays and episodes as Minari datasets, which other libraries of offline learning read."""

from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from tqdm import trange

from sepsis_gym import __version__
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import Agent, prepare
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import observation_space
from sepsis_gym.trajectories import Manifest, Trajectories

if TYPE_CHECKING:
    from minari import MinariDataset

_STEP = ("actions", "rewards", "terminations", "truncations")
Episode = dict[str, Any]
"""``observations`` [T + 1, 107] and [T] each of ``actions``, ``rewards``, ``terminations``,
``truncations``."""


def logged_episodes(trajectories: Trajectories) -> Iterator[Episode]:
    """One episode per stay."""
    observations, log = trajectories.observations(), trajectories
    for first, last in zip(log.offsets[:-1], log.offsets[1:] - 1, strict=True):
        taken = (log.action, log.reward, log.terminated, np.zeros(len(log.action), bool))
        steps = (column[first:last] for column in taken)
        shown = observations[first : last + 1]
        yield {"observations": shown, **dict(zip(_STEP, steps, strict=True))}


def played_episodes(
    env: gym.Env[Any, Any], agent: Agent, episodes: int, *, seed: int
) -> Iterator[Episode]:
    """Lets an agent act in an environment.

    Args:
        env: A single environment.
        agent: The agent.
        episodes: How many.
        seed: Of the environment; the agent draws from a stream of its own.
    """
    for index in trange(episodes, desc="episodes", disable=None):
        observation, info = env.reset(seed=seed if index == 0 else None)
        prepare(agent, env)
        shown, steps, over = [observation], [], False
        while not over:
            action = agent.act(observation, info)
            observation, reward, terminated, truncated, info = env.step(action)
            shown.append(observation)
            steps.append((action, float(reward), terminated, truncated))
            over = terminated or truncated
        columns = (np.array(column) for column in zip(*steps, strict=True))
        yield {"observations": np.stack(shown), **dict(zip(_STEP, columns, strict=True))}


def write_minari(
    episodes: Iterable[Episode], dataset_id: str, about: Manifest, *, algorithm: str
) -> "MinariDataset":
    """Writes a dataset to where Minari keeps its own (``MINARI_DATASETS_PATH``).

    Args:
        episodes: See :func:`logged_episodes` and :func:`played_episodes`.
        dataset_id: Such as ``sepsis/synthetic-clinicians-v0``.
        about: Of the cohort that the episodes, or the agent that played them, come from.
        algorithm: Who chose the actions.

    Raises:
        ConfigError: There is such a dataset, or Minari takes no such name.
        ImportError: Minari is not installed.
    """
    minari = _import_minari()
    told = f"Sepsis treatment, {about.source}. Research use only, never for patient care."
    if about.credentialed:
        told += " A data use agreement binds the rows: do not share them."
    try:
        return minari.create_dataset_from_buffers(
            dataset_id,
            [minari.data_collector.EpisodeBuffer(id=i, **e) for i, e in enumerate(episodes)],
            algorithm_name=algorithm,
            observation_space=observation_space(about.preprocessing),
            action_space=gym.spaces.Discrete(N_ACTIONS),
            description=told,
            data_format="arrow",
            requirements=[f"sepsis-gym=={__version__}"],
        )
    except (ValueError, gym.error.Error) as error:
        raise ConfigError(f"Minari dataset {dataset_id!r}: {error}") from error


def _import_minari() -> ModuleType:
    try:
        import minari
        import minari.data_collector
        import PIL  # noqa: F401  without which Minari does not know the format
    except ImportError as error:
        raise ImportError(
            f'Minari is missing ({error}): pip install "sepsis-gym[minari]"'
        ) from error
    module: ModuleType = minari
    return module
