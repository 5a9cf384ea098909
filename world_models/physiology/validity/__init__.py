"""The tests a reviewer would run on synthetic patients, as one table."""

from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from tqdm import tqdm

from sepsis_gym.cohort.mimic_folder import MimicFolder
from sepsis_gym.errors import ConfigError
from world_models.physiology.fit_layer import simulated
from world_models.physiology.validity import (
    causal,
    confounding,
    observed,
    ordering,
    real,
    written,
)
from world_models.physiology.validity.checks import Check

FEWEST_PATIENTS = 200
"""Fewer leave trial arms and strata without anybody."""
_MOST_WRITTEN = 300


def unfitted_seed(seed: int) -> int:
    """Seed of a validation; none of these was used to fit anything."""
    return 7700 + seed


def validate(
    n: int = 4000, seeds: tuple[int, ...] = (1, 2, 3, 4), mimic: Path | None = None
) -> list[Check]:
    """Runs every test.

    Args:
        n: Patients of each.
        seeds: Of the policies' comparison; the first seeds the others. None of them was used to
            fit anything.
        mimic: Folder of real tables with hosp/ and icu/, such as the MIMIC-IV demo; tests that
            need it are listed as not run without.

    Raises:
        ConfigError: n is too small.
        SourceError: ``mimic`` is no such folder, or a table is missing or unreadable.
    """
    if n < FEWEST_PATIENTS:
        raise ConfigError(f"patients must be {FEWEST_PATIENTS} or more, got {n}")
    if mimic is not None:
        MimicFolder(mimic)  # complains before the work, not after it
    seed = unfitted_seed(seeds[0])
    groups: list[Callable[[], Iterator[Check]]] = [
        lambda: under_care(n, seed),
        lambda: causal.dose_responses(n, seed),
        lambda: causal.bolus(n, seed),
        lambda: causal.norepinephrine(n, seed),
        lambda: causal.trials(n, seed),
        lambda: causal.limits(min(n, 1000), seed),
        lambda: causal.step_size(min(n, 2000), seed),
        lambda: ordering.ordering(n, tuple(unfitted_seed(s) for s in seeds)),
        lambda: ordering.no_free_lunch(min(n, 1000), seed),
        lambda: confounding.sign_reversal(n, seed),
        lambda: confounding.ladder(n, seed),
        lambda: on_tables(min(n, _MOST_WRITTEN), seed, mimic),
    ]
    checks: list[Check] = []
    for group in tqdm(groups, desc="validity", disable=None):
        checks += group()
    return sorted(checks, key=lambda check: check.number)


def under_care(n: int, seed: int) -> Iterator[Check]:
    """Tests 3 to 6 and 14, on three times n patients under ordinary care."""
    courses = simulated(3 * n, seed)
    cohort = observed.Seen(courses)
    yield from observed.marginals(cohort)
    yield from observed.time_courses(cohort)
    yield from observed.identities(courses)
    yield from observed.mortality(cohort)


def on_tables(n: int, seed: int, mimic: Path | None = None) -> Iterator[Check]:
    """Recovery by the build and tests 2 and 19 to 21, on tables of n patients."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        synthetic = written.written(n, seed, folder / "synthetic")
        yield from written.recovered(synthetic, n, seed)
        yield written.concealed(synthetic)
        if mimic is None:
            yield from real.not_run()
        else:
            yield from real.beside_real(synthetic, written.built(mimic, folder / "real"))
