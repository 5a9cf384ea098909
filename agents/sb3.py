"""Training through Stable-Baselines3 in stretches, after each of which it can be gone on from."""

import contextlib
import math
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
from tqdm import tqdm

from agents.training import Run, TrainingConfig
from sepsis_gym.reward import RewardConfig

OUTCOME = RewardConfig().survived
"""What rewards are divided by: losses and step sizes are made for values of about 1."""


@contextlib.contextmanager
def global_streams() -> Iterator[None]:
    """Puts back the streams of numpy and Python, which Stable-Baselines3 seeds and draws from."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        random.setstate(python_state)


def learn(algorithm: Any, config: TrainingConfig, seed: int, run: Run, of: str) -> dict[str, Any]:
    """Treats and learns; returns the decisions, and what the last episodes came to."""
    from stable_baselines3.common.logger import Logger

    algorithm.set_logger(Logger(None, []))
    kept = run.resume(of)
    numbers: dict[str, float] = {}
    if kept is not None:
        numbers = kept["numbers"]
        _go_on_from(algorithm, kept)
    step = algorithm.num_timesteps
    with (
        run.curves(step) as curves,
        tqdm(total=config.n_steps, initial=step, unit="decision", disable=None) as bar,
    ):
        while step < config.n_steps:
            stream = np.random.SeedSequence([seed, step]).generate_state(1)[0]
            algorithm.set_env(algorithm.get_env(), force_reset=True)
            algorithm.set_random_seed(int(stream))
            algorithm.learn(
                min(config.check_interval, config.n_steps - step),
                log_interval=None,
                reset_num_timesteps=False,
            )
            bar.update(algorithm.num_timesteps - step)
            step = algorithm.num_timesteps
            numbers = _means(algorithm.ep_info_buffer)
            algorithm.ep_info_buffer.clear()
            bar.set_postfix(mean_return=f"{numbers['mean_return']:.2f}")
            curves({**algorithm.logger.name_to_value, **numbers}, step)
            run.keep(of, _state(algorithm) | {"numbers": numbers})
    return {"decisions": step, **numbers}


def _means(episodes: Any) -> dict[str, float]:
    """Mean return, in the reward's own unit, and length of the episodes that ended."""
    returns, lengths = ([each[key] for each in episodes] or [math.nan] for key in "rl")
    return {
        "mean_return": OUTCOME * float(np.mean(returns)),
        "mean_length": float(np.mean(lengths)),
    }


_COUNTERS = ("num_timesteps", "_n_updates", "_n_calls", "_episode_num")
_REMEMBERED = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


def _state(algorithm: Any) -> dict[str, Any]:
    """All that decides how training goes on after a look, tensors and plain values."""
    import torch

    state: dict[str, Any] = {
        "policy": algorithm.policy.state_dict(),
        "optimizer": algorithm.policy.optimizer.state_dict(),
        "counters": {name: getattr(algorithm, name, 0) for name in _COUNTERS},
    }
    buffer = getattr(algorithm, "replay_buffer", None)
    if buffer is not None:
        used = slice(None) if buffer.full else slice(buffer.pos)
        arrays = {name: torch.from_numpy(getattr(buffer, name)[used]) for name in _REMEMBERED}
        state["buffer"] = {"pos": buffer.pos, "full": buffer.full, **arrays}
    return state


def _go_on_from(algorithm: Any, state: dict[str, Any]) -> None:
    algorithm.policy.load_state_dict(state["policy"])
    algorithm.policy.optimizer.load_state_dict(state["optimizer"])
    for name, value in state["counters"].items():
        setattr(algorithm, name, value)
    if "buffer" in state:
        buffer, kept = algorithm.replay_buffer, state["buffer"]
        buffer.pos, buffer.full = kept["pos"], kept["full"]
        for name in _REMEMBERED:
            array = kept[name].numpy()
            getattr(buffer, name)[: len(array)] = array
