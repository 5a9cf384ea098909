"""Courses in blocks, so that memory stays flat however many patients there are."""

from collections.abc import Iterator

import numpy as np

from sepsis_gym.errors import ConfigError
from world_models.physiology.clinician import ClinicianConfig
from world_models.physiology.courses import Courses, Streams, admit, clinicians, run

BLOCK_SIZE = 1000
RECORDED_HOURS = 80
"""Charting ends then, h from ICU admission: enough for 72 h and one step of any length."""


def simulated(n_patients: int, seed: int, clinician: ClinicianConfig) -> Iterator[Courses]:
    """Simulates patients under clinicians, a block of them at a time.

    Args:
        n_patients: How many.
        seed: Of everything.
        clinician: How they dose.

    Raises:
        ConfigError: ``n_patients`` is below 1 or the seed below 0.
    """
    if n_patients < 1:
        raise ConfigError(f"n_patients must be 1 or more, got {n_patients}")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, got {seed}")
    for block, first in enumerate(range(0, n_patients, BLOCK_SIZE)):
        streams = block_streams(seed, block)
        ward = admit(min(BLOCK_SIZE, n_patients - first), streams, clinician)
        yield run(ward, clinicians(clinician), RECORDED_HOURS, streams)


def block_streams(seed: int, block: int) -> Streams:
    """The randomness of a block's courses."""
    return Streams.of(np.random.SeedSequence([seed, block]))


def record_draws(seed: int, block: int) -> np.random.Generator:
    """For what a record holds of a block's courses: fates, devices, cuffs, thermometers."""
    return np.random.default_rng([seed, block, 1])


def slip_draws(seed: int, block: int) -> np.random.Generator:
    """For what is in the tables only: minutes, typing errors, double entries, cancelled orders."""
    return np.random.default_rng([seed, block, 2])
