"""The environments: one interface over learned dynamics and logged stays."""

from sepsis_gym.envs.replay import SepsisReplayEnv
from sepsis_gym.envs.sepsis import SepsisEnv
from sepsis_gym.envs.vector import SepsisVectorEnv

__all__ = ["SepsisEnv", "SepsisReplayEnv", "SepsisVectorEnv"]
