"""Models of patients: the dynamics behind ``SepsisWM-v0`` and ``SepsisPhysio-v0``."""

from world_models.checkpoint import available, load_world_model
from world_models.config import TrainConfig
from world_models.mechanistic import MechanisticModel
from world_models.model import ClinicalWorldModel

__all__ = ["ClinicalWorldModel", "MechanisticModel", "TrainConfig", "available", "load_world_model"]
