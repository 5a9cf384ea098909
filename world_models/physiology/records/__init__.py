"""Simulated courses as records: MIMIC-IV tables, the truth beside them, and trajectories."""
