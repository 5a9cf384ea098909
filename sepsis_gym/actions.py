"""The 5 x 5 grid of treatments: doses to levels, levels to the discrete action, and back.

``action = 5 * fluid_level + vasopressor_level``. Level 0 is none; 1-4 are the quartiles of the
non-zero doses of a training split, right-closed (Komorowski et al. 2018).
"""

from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sepsis_gym.errors import ConfigError, InvalidActionError

N_LEVELS = 5
N_ACTIONS = N_LEVELS * N_LEVELS

VasopressorWeights = Literal["goradia", "komorowski"]
NOREPINEPHRINE_EQUIVALENT_WEIGHTS: dict[VasopressorWeights, dict[str, float]] = {
    "goradia": {
        "norepinephrine": 1.0,  # ug/kg/min, as all but vasopressin
        "epinephrine": 1.0,
        "phenylephrine": 0.1,
        "dopamine": 0.01,
        "vasopressin": 2.5 / 60,  # units/h: 2.5 per unit/min
        "angiotensin": 10.0,
    },
    "komorowski": {
        "norepinephrine": 1.0,
        "epinephrine": 1.0,
        "phenylephrine": 0.45,
        "dopamine": 0.01,
        "vasopressin": 5 / 60,
    },
}
"""Factor from each drug's rate to norepinephrine equivalents: Goradia et al. 2021, the scale of
mimic-code, and Komorowski et al. 2018 (AI Clinician), which has no angiotensin II."""


def encode_action(fluid_level: ArrayLike, vasopressor_level: ArrayLike) -> NDArray[np.int64]:
    """Joins two levels (0-4 each, any shape) into the action id of the same shape."""
    fluid, vasopressor = np.asarray(fluid_level), np.asarray(vasopressor_level)
    for name, level in (("fluid", fluid), ("vasopressor", vasopressor)):
        if not ((level >= 0) & (level < N_LEVELS)).all():
            raise InvalidActionError(f"{name} level must be 0 to 4, got {level}")
    return (N_LEVELS * fluid + vasopressor).astype(np.int64)


def decode_action(action: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits action ids (0-24, any shape) into fluid and vasopressor levels."""
    actions = check_actions(action)
    return actions // N_LEVELS, actions % N_LEVELS


_WHOLE = (int, np.int64)


def check_actions(action: ArrayLike) -> NDArray[np.int64]:
    """Returns the actions as integers.

    Raises:
        InvalidActionError: One is no whole number from 0 to 24; the first offender is named.
    """
    if type(action) in _WHOLE and 0 <= action < N_ACTIONS:  # type: ignore[operator]
        return np.array(action, np.int64)  # what a single environment gets at every step
    actions = np.asarray(action)
    whole = actions.dtype.kind in "iu" or (actions.dtype.kind == "f" and np.all(actions % 1 == 0))
    outside = (actions < 0) | (actions >= N_ACTIONS) if whole else np.ones(actions.shape, bool)
    if np.any(outside):
        at = np.atleast_1d(outside).nonzero()[0][0]
        where = f" at position {at}" if actions.ndim else ""
        raise InvalidActionError(
            f"action must be a whole number from 0 to {N_ACTIONS - 1} "
            f"(5 * fluid_level + vasopressor_level), got {np.atleast_1d(actions)[at]!r}{where}"
        )
    return actions.astype(np.int64)


@dataclass(frozen=True)
class ActionBins:
    """Where the dose levels begin and what each stands for.

    Attributes:
        fluid_edges: Three inner cuts of the non-zero fluid doses, mL per step.
        vasopressor_edges: Three inner cuts of the non-zero norepinephrine equivalents, ug/kg/min.
        fluid_doses: Dose that each of the five levels stands for, mL per step.
        vasopressor_doses: The same for norepinephrine equivalents, ug/kg/min.
        source: Where the numbers come from.
    """

    fluid_edges: tuple[float, ...] = (50.0, 180.0, 530.0)
    vasopressor_edges: tuple[float, ...] = (0.08, 0.22, 0.45)
    fluid_doses: tuple[float, ...] = (0.0, 30.0, 85.0, 320.0, 946.0)
    vasopressor_doses: tuple[float, ...] = (0.0, 0.04, 0.13, 0.27, 0.78)
    source: str = "Komorowski et al. 2018, 4-h steps"

    def __post_init__(self) -> None:
        """Rejects edges that do not rise or doses outside their own level."""
        for name in ("fluid", "vasopressor"):
            edges, doses = getattr(self, f"{name}_edges"), getattr(self, f"{name}_doses")
            if len(edges) != N_LEVELS - 2 or len(doses) != N_LEVELS or doses[0] != 0:
                raise ConfigError(f"{name}: needs 3 edges and 5 doses that begin with 0")
            if not (0 < edges[0] < edges[1] < edges[2]):
                raise ConfigError(f"{name}_edges must rise and be positive, got {edges}")
            if not np.array_equal(_levels(doses, _cuts(edges)), np.arange(N_LEVELS)):
                raise ConfigError(f"{name}_doses {doses} do not lie in their levels {edges}")

    @classmethod
    def fit(cls, fluid_ml: ArrayLike, norepinephrine_equivalent: ArrayLike, *, source: str) -> Self:
        """Cuts the non-zero doses of a training split at their quartiles.

        A drug with fewer than four different doses keeps the published cuts, which ``source``
        then says.

        Args:
            fluid_ml: Fluid given per step, any shape.
            norepinephrine_equivalent: Vasopressor dose per step, ug/kg/min.
            source: What the doses were taken from.
        """
        published = cls()
        fitted: dict[str, Any] = {}
        notes = [source]
        for name, given in (("fluid", fluid_ml), ("vasopressor", norepinephrine_equivalent)):
            dose = np.asarray(given, dtype=np.float64)
            dose = dose[dose > 0]
            edges = np.quantile(dose, (0.25, 0.5, 0.75)) if len(dose) else np.zeros(3)
            level = _levels(dose, _cuts(tuple(edges)))
            if len(np.unique(level)) < N_LEVELS - 1 or len(np.unique(edges)) < N_LEVELS - 2:
                notes.append(f"{name}: {published.source}")
                fitted[f"{name}_edges"] = getattr(published, f"{name}_edges")
                fitted[f"{name}_doses"] = getattr(published, f"{name}_doses")
                continue
            medians = [float(np.median(dose[level == k])) for k in range(1, N_LEVELS)]
            fitted[f"{name}_edges"] = tuple(float(edge) for edge in edges)
            fitted[f"{name}_doses"] = (0.0, *medians)
        return cls(**fitted, source="; ".join(notes))

    def fluid_level(self, fluid_ml: ArrayLike) -> NDArray[np.int64]:
        """Level (0-4) of fluid doses in mL per step, any shape."""
        return _levels(fluid_ml, self._fluid_cuts)

    def vasopressor_level(self, norepinephrine_equivalent: ArrayLike) -> NDArray[np.int64]:
        """Level (0-4) of norepinephrine equivalents in ug/kg/min, any shape."""
        return _levels(norepinephrine_equivalent, self._vasopressor_cuts)

    def action(
        self, fluid_ml: ArrayLike, norepinephrine_equivalent: ArrayLike
    ) -> NDArray[np.int64]:
        """Action ids of the given doses."""
        level = self.vasopressor_level(norepinephrine_equivalent)
        return level + N_LEVELS * self.fluid_level(fluid_ml)

    def doses(self, action: ArrayLike) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Doses an action stands for: (fluid in mL per step, norepinephrine equivalent)."""
        return self.doses_of(check_actions(action))

    def doses_of(
        self, actions: NDArray[np.integer]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """:meth:`doses` of actions that have been checked."""
        fluid, vasopressor = self._doses
        return fluid[actions], vasopressor[actions]

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: it never changes, and other threads may be filling what it caches."""
        return self

    @cached_property
    def _doses(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """[25] of each drug, by action."""
        fluid_level, vasopressor_level = decode_action(np.arange(N_ACTIONS))
        fluid = np.array(self.fluid_doses, np.float32)[fluid_level]
        return fluid, np.array(self.vasopressor_doses, np.float32)[vasopressor_level]

    @cached_property
    def _fluid_cuts(self) -> NDArray[np.float32]:
        return _cuts(self.fluid_edges)

    @cached_property
    def _vasopressor_cuts(self) -> NDArray[np.float32]:
        return _cuts(self.vasopressor_edges)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        return cls(**plain)


def _cuts(edges: tuple[float, ...]) -> NDArray[np.float32]:
    """The doses above which each level from 1 on begins."""
    return np.array((0.0, *edges), np.float32)


def _levels(dose: ArrayLike, cuts: NDArray[np.float32]) -> NDArray[np.int64]:
    given = np.asarray(dose)
    if np.count_nonzero(given >= 0) < given.size:  # also catches NaN
        raise ConfigError("doses must be zero or positive numbers")
    # in float32, as doses are stored: else one that equals an edge could land above it
    return cuts.searchsorted(given.astype(np.float32, copy=False), side="left")
