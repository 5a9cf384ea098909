"""Cohorts: from raw hospital tables to Trajectories."""
