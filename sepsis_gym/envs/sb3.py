"""Stable-Baselines3 over the native vector environment, at its full speed."""

import time
from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from sepsis_gym.envs.vector import SAME_STEP
from sepsis_gym.errors import ConfigError

try:
    from stable_baselines3.common.monitor import Monitor
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise ImportError('stable-baselines3 is missing: pip install "sepsis-gym[online]"') from error

_Indices = int | Iterable[int] | None
_Infos = list[dict[str, Any]]


class SB3VecEnv(VecEnv):
    """A Gymnasium vector environment of sepsis-gym as a ``VecEnv`` of Stable-Baselines3.

    ::

        env = SB3VecEnv(gym.make_vec("SepsisWM-v0", num_envs=256, autoreset_mode="SameStep"))
        PPO("MlpPolicy", env).learn(1_000_000)

    Where an episode ends, its ``infos`` entry is the environment's last ``info`` with
    ``terminal_observation``, ``TimeLimit.truncated`` and ``episode`` (return ``r``, length ``l``,
    seconds ``t``, as ``Monitor`` has them, so ``VecMonitor`` is not needed). In between it holds
    ``TimeLimit.truncated`` and whatever ``info_keys`` asks for; all entries for every patient at
    every step would cost a tenth of the speed and more.

    All environments are one object: attributes and methods are those of the vector environment,
    whatever the indices, and ``seed`` starts its one random stream. For the last k observations
    wrap it in ``VecFrameStack``.
    """

    def __init__(
        self, env: gym.vector.VectorEnv[Any, Any, Any], info_keys: Sequence[str] = ()
    ) -> None:
        """Wraps the vector environment.

        Args:
            env: A :class:`~sepsis_gym.envs.SepsisVectorEnv` with same-step autoreset, or wrappers
                of one.
            info_keys: Entries of ``info`` to hand out at every step.

        Raises:
            ConfigError: The environment resets at the next step, which Stable-Baselines3 would
                take for a decision.
        """
        mode = env.metadata.get("autoreset_mode")
        if getattr(mode, "value", mode) != SAME_STEP:
            raise ConfigError(
                f'SB3VecEnv needs gym.make_vec(..., autoreset_mode="{SAME_STEP}"), got {mode}'
            )
        self.env = env
        self.info_keys = tuple(info_keys)
        self._actions: NDArray[np.int64] = np.zeros(env.num_envs, np.int64)
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, np.int64)
        self._opened = time.time()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """Admits new patients; their infos are in ``reset_infos``."""
        observations, info = self.env.reset(seed=self._seeds[0], options=self._vector_options())
        self._reset_seeds()
        self._reset_options()
        self._returns[:], self._lengths[:] = 0, 0
        self.reset_infos = self._chosen(info, {})
        return observations

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Keeps the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], _Infos]:
        """Gives each patient the doses of its action."""
        observations, reward, terminated, truncated, info = self.env.step(self._actions)
        done = terminated | truncated
        self._returns += reward
        self._lengths += 1
        infos = self._chosen(info, {"TimeLimit.truncated": False})
        for index in np.flatnonzero(done).tolist():
            self.reset_infos[index], infos[index] = infos[index], self._last(info, index)
            infos[index]["TimeLimit.truncated"] = bool(truncated[index] and not terminated[index])
        self._returns[done], self._lengths[done] = 0, 0
        return observations, reward.astype(np.float32), done, infos

    def close(self) -> None:
        """Closes the vector environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: _Indices = None) -> list[Any]:
        """The vector environment's attribute, once for each index."""
        value = self._attribute(attr_name)
        return [value for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: _Indices = None) -> None:
        """Sets the attribute of the vector environment.

        Raises:
            ConfigError: Only some of the environments are meant.
        """
        if len(set(self._get_indices(indices))) != self.num_envs:
            raise ConfigError(f"{attr_name} is shared: set_attr() sets it for all environments")
        setattr(self.env.unwrapped, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: _Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls the vector environment's method once; what it returns, once for each index."""
        answer = self._attribute(method_name)(*method_args, **method_kwargs)
        return [answer for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: _Indices = None) -> list[bool]:
        """Whether episodes carry what the wrapper adds: True for ``Monitor``."""
        return [wrapper_class is Monitor for _ in self._get_indices(indices)]

    def _attribute(self, name: str) -> Any:
        """Of the outermost wrapper that has it."""
        env: Any = self.env
        while not hasattr(env, name) and env is not env.unwrapped:
            env = env.env
        return getattr(env, name)

    def _chosen(self, info: dict[str, Any], shared: dict[str, Any]) -> _Infos:
        """One dictionary each: the shared entries and those of ``info_keys``."""
        infos = [shared.copy() for _ in range(self.num_envs)]
        for key in self.info_keys:
            for each, value in zip(infos, info[key], strict=True):
                each[key] = value
        return infos

    def _last(self, info: dict[str, Any], index: int) -> dict[str, Any]:
        """Everything about an episode that is over."""
        last = {
            key: entry[index]
            for key, entry in info["final_info"].items()
            if not key.startswith("_")
        }
        last["terminal_observation"] = info["final_obs"][index]
        last["episode"] = {
            "r": float(self._returns[index]),
            "l": int(self._lengths[index]),
            "t": round(time.time() - self._opened, 6),
        }
        return last

    def _vector_options(self) -> dict[str, Any] | None:
        """The options of all environments as those of the vector environment."""
        keys = {key for options in self._options for key in options}
        if any(set(options) != keys for options in self._options):
            raise ConfigError(f"set_options() needs the same options for all, got {sorted(keys)}")
        return {key: np.array([options[key] for options in self._options]) for key in keys} or None
