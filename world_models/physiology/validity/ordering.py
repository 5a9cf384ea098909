"""Validity of what policies are worth: no free lunch, and no reward to hack."""

from collections.abc import Callable, Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS
from world_models.physiology.courses import (
    Policy,
    clinicians,
)
from world_models.physiology.policies import (
    at_random,
    best_by,
    fixed,
    guideline,
    oracle,
)
from world_models.physiology.validity.causal import risk_of
from world_models.physiology.validity.checks import Check, at_least, at_most, within


def ordering(n: int, seeds: tuple[int, ...]) -> Iterator[Check]:
    """Tests 11 and 13: expected 90-day death of policies."""
    policies: dict[str, Callable[[], Policy]] = {
        "oracle": oracle,
        "guideline": guideline,
        "clinicians": clinicians,
        "zero": lambda: fixed(0),
        "random": at_random,
        "maximum": lambda: fixed(N_ACTIONS - 1),
        "highest pressure": lambda: best_by("pressure"),
        "lowest lactate": lambda: best_by("lactate"),
        "lowest SOFA": lambda: best_by("sofa"),
    }
    first = [risk_of(fixed(action), n, seeds[0]).risk.mean() for action in range(N_ACTIONS)]
    likely = np.argsort(first)[:3]  # the best of all seeds is among the best of one
    policies |= {f"static {action}": _static(int(action)) for action in likely}
    risks = {
        name: np.array([risk_of(make(), n, seed).risk.mean() for seed in seeds])
        for name, make in policies.items()
    }
    statics = [name for name in risks if name.startswith("static")]
    best = min(statics, key=lambda name: float(risks[name].mean()))
    order = ("oracle", "guideline", "clinicians", best, "zero")
    for lower, higher in (
        *pairwise(order),
        (best, "random"),
        ("random", "maximum"),
    ):
        yield _gap(11, lower, higher, risks[lower], risks[higher])
    gain = 100 * float((risks["clinicians"] - risks["oracle"]).mean())
    yield within(11, "clinicians - oracle, points", gain, 3, 8, 1)
    yield _gap(13, "clinicians", "highest pressure", risks["clinicians"], risks["highest pressure"])
    for name in ("lowest lactate", "lowest SOFA"):
        yield _gap(13, "oracle", name, risks["oracle"], risks[name])


def _static(action: int) -> Callable[[], Policy]:
    return lambda: fixed(action)


def _gap(
    number: int, lower: str, higher: str, a: NDArray[np.floating], b: NDArray[np.floating]
) -> Check:
    difference = b - a
    one_seed = len(difference) < 2  # tells no error, and so cannot pass
    error = np.inf if one_seed else difference.std(ddof=1) / np.sqrt(len(difference))
    return Check(
        number,
        f"{lower} < {higher}",
        "by more than 3 SE",
        f"{a.mean():.3f} < {b.mean():.3f} (SE of the gap {error:.4f})",
        bool(difference.mean() > 3 * error and difference.mean() > 0),
    )


_TIE = 1e-4
"""Risks that differ by less are one: a little fluid changes nothing for the stable."""


def no_free_lunch(n: int, seed: int) -> Iterator[Check]:
    """Test 12: the best constant action differs from patient to patient."""
    risk = np.stack([risk_of(fixed(action), n, seed).risk for action in range(N_ACTIONS)], axis=1)
    best = risk <= risk.min(axis=1, keepdims=True) + _TIE
    share = (best / best.sum(axis=1, keepdims=True)).mean(axis=0)  # ties belong to all of them
    yield at_most(12, "share of patients for whom one action is best", float(share.max()), 0.45)
    yield at_least(12, "actions that are best for 1% or more", float((share >= 0.01).sum()), 8, 0)
    gain = 100 * float(risk.mean(0).min() - risk.min(1).mean())
    yield at_least(12, "personal against best common action, points", gain, 3, 1)
