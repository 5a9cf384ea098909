"""sepsis-gym: reinforcement-learning environments for the treatment of sepsis.

Research software, never for patient care. Importing this package registers ``SepsisWM-v0``,
``SepsisPhysio-v0`` and ``SepsisReplay-v0`` with Gymnasium.
"""

from sepsis_gym.registration import register_environments
from sepsis_gym.trajectories import Trajectories

__all__ = ["Trajectories"]
__version__ = "0.1.0"

register_environments()
