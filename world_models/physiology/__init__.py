"""A mechanistic septic patient, and its record as MIMIC-IV tables or as trajectories."""

from world_models.physiology.clinician import ACTION_HOURS, ClinicianConfig

__all__ = ["ACTION_HOURS", "ClinicianConfig"]
