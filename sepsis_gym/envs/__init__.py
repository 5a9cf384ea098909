"""The environments: one interface over learned dynamics and logged stays."""

from sepsis_gym.envs.replay import SepsisReplayEnv
from sepsis_gym.envs.sepsis import SepsisEnv
from sepsis_gym.envs.support import SupportConfig
from sepsis_gym.envs.vector import SepsisVectorEnv
from sepsis_gym.envs.wrappers import MultiDiscreteAction, MultiDiscreteVectorAction

__all__ = [
    "MultiDiscreteAction",
    "MultiDiscreteVectorAction",
    "SepsisEnv",
    "SepsisReplayEnv",
    "SepsisVectorEnv",
    "SupportConfig",
]
