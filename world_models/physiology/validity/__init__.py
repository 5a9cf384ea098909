"""The tests a reviewer would run on synthetic patients, as one table."""

from collections.abc import Callable, Iterator

from tqdm import tqdm

from world_models.physiology.fit_layer import simulated
from world_models.physiology.validity import causal, confounding, observed, ordering
from world_models.physiology.validity.checks import Check


def validate(n: int = 4000, seeds: tuple[int, ...] = (1, 2, 3, 4)) -> list[Check]:
    """Runs every test that needs no other data.

    Args:
        n: Patients of each.
        seeds: Of the policies' comparison; the first seeds the others. None of them was used to
            fit anything.
    """
    seed = 7700 + seeds[0]

    def seen() -> Iterator[Check]:
        courses = simulated(3 * n, seed)
        cohort = observed.Seen(courses)
        yield from observed.marginals(cohort)
        yield from observed.time_courses(cohort)
        yield from observed.identities(courses)
        yield from observed.mortality(cohort)

    groups: list[Callable[[], Iterator[Check]]] = [
        seen,
        lambda: causal.dose_responses(n, seed),
        lambda: causal.bolus(n, seed),
        lambda: causal.norepinephrine(n, seed),
        lambda: causal.trials(n, seed),
        lambda: causal.limits(min(n, 1000), seed),
        lambda: causal.step_size(min(n, 2000), seed),
        lambda: ordering.ordering(n, tuple(7700 + s for s in seeds)),
        lambda: ordering.no_free_lunch(min(n, 1000), seed),
        lambda: confounding.sign_reversal(n, seed),
        lambda: confounding.ladder(n, seed),
    ]
    checks: list[Check] = []
    for group in tqdm(groups, desc="validity", disable=None):
        checks += group()
    return sorted(checks, key=lambda check: check.number)
