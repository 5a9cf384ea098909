"""A mechanistic septic patient, and its record as MIMIC-IV tables or as trajectories."""
