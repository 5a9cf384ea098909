"""What a training split fixes once for everything after it: fill values, scales, dose levels.

One :class:`Preprocessing` travels with a cohort and with every model trained on it, so that logged
and simulated patients go through the same numbers.
"""

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.actions import ActionBins
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import (
    HIGH,
    HOLD_HOURS,
    LOG,
    LOW,
    N_FEATURES,
    STATIC_NAMES,
    TYPICAL,
)

HORIZON_HOURS = 72
STEP_HOURS = (1, 2, 4, 8)
NEVER = 9999
"""Age, in steps, of a feature that was never measured."""
SMALLEST_SCALE = 1e-3

Alignment = Literal["causal", "same_window"]


@dataclass(frozen=True)
class Preprocessing:
    """Clock, fill values, scales and dose levels of one cohort.

    Attributes:
        step_hours: Length of a decision step, 1, 2, 4 or 8 h.
        alignment: ``causal``: the action follows the state; ``same_window``: both of one bin.
        fill: [39] value of a feature that is not (or no longer) known, clinical units.
        mean: [39] mean in model space (``log1p`` where the feature table says so).
        scale: [39] standard deviation in model space.
        static_mean: [3] mean of age, male, Charlson.
        static_scale: [3] their standard deviation.
        action_bins: Dose levels.
    """

    step_hours: int
    alignment: Alignment
    fill: tuple[float, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    static_mean: tuple[float, ...]
    static_scale: tuple[float, ...]
    action_bins: ActionBins

    def __post_init__(self) -> None:
        """Checks the clock, the lengths and the scales."""
        if self.step_hours not in STEP_HOURS:
            raise ConfigError(f"step_hours must be 1, 2, 4 or 8, got {self.step_hours}")
        if self.alignment not in ("causal", "same_window"):
            raise ConfigError(f"alignment must be causal or same_window, got {self.alignment!r}")
        lengths = {"fill": N_FEATURES, "mean": N_FEATURES, "scale": N_FEATURES}
        lengths |= {"static_mean": len(STATIC_NAMES), "static_scale": len(STATIC_NAMES)}
        for name, length in lengths.items():
            if len(getattr(self, name)) != length:
                raise ConfigError(f"{name} needs {length} numbers, got {len(getattr(self, name))}")
        if min(self.scale) <= 0 or min(self.static_scale) <= 0:
            raise ConfigError("scale and static_scale must be positive")

    @classmethod
    def fit(
        cls,
        raw: NDArray[np.floating],
        static: NDArray[np.floating],
        action_bins: ActionBins,
        *,
        step_hours: int = 4,
        alignment: Alignment = "causal",
    ) -> Self:
        """Takes medians, means and standard deviations from measured values only.

        Args:
            raw: [R, 39] measurements of the training split, clinical units, NaN where none.
            static: [N, 3] age, male, Charlson of its stays.
            action_bins: Dose levels.
            step_hours: Length of a step.
            alignment: How states and actions are paired.
        """
        fill = TYPICAL.copy()
        for index in range(N_FEATURES):
            if len(measured := raw[:, index][~np.isnan(raw[:, index])]):
                fill[index] = np.median(measured.astype(np.float64))
        mean, scale = _scales(raw)
        static_scale = np.where(static.std(0) > SMALLEST_SCALE, static.std(0), 1.0)
        return cls(
            step_hours=step_hours,
            alignment=alignment,
            fill=tuple(fill.tolist()),
            mean=mean,
            scale=scale,
            static_mean=tuple(static.mean(0).tolist()),
            static_scale=tuple(static_scale.tolist()),
            action_bins=action_bins,
        )

    def rescaled(self, values: NDArray[np.floating]) -> Self:
        """The same with means and deviations of these [R, 39] values."""
        mean, scale = _scales(values)
        return replace(self, mean=mean, scale=scale)

    def __deepcopy__(self, memo: object) -> Self:
        """Itself: it never changes, and other threads may be filling what it caches."""
        return self

    @cached_property
    def max_steps(self) -> int:
        """Most decisions in an episode (72 h of them)."""
        return HORIZON_HOURS // self.step_hours

    @cached_property
    def hold_steps(self) -> NDArray[np.int16]:
        """[39] longest carry-forward in steps."""
        return np.floor(HOLD_HOURS / self.step_hours).astype(np.int16)

    @cached_property
    def _hours(self) -> NDArray[np.float32]:
        hours = np.arange(NEVER + 1, dtype=np.float32) * self.step_hours
        hours[NEVER] = np.inf
        return hours

    @cached_property
    def _clock(self) -> NDArray[np.int64]:
        return (np.arange(self.max_steps + 1) + 1) * self.step_hours

    @cached_property
    def _fill(self) -> NDArray[np.float32]:
        return np.array(self.fill, np.float32)

    @cached_property
    def _mean(self) -> NDArray[np.float32]:
        return np.array(self.mean, np.float32)

    @cached_property
    def _scale(self) -> NDArray[np.float32]:
        return np.array(self.scale, np.float32)

    @cached_property
    def _static(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        return np.array(self.static_mean, np.float32), np.array(self.static_scale, np.float32)

    def known(self, age: NDArray[np.integer]) -> NDArray[np.bool_]:
        """[..., 39] whether a value measured ``age`` steps ago still counts."""
        return age <= self.hold_steps

    def hours(self, age: NDArray[np.integer]) -> NDArray[np.float32]:
        """[..., 39] ages in hours, infinite where never measured."""
        return self._hours.take(age)

    def clock(self, step: NDArray[np.integer]) -> NDArray[np.int64]:
        """[n] hours since ICU admission after this many decisions."""
        return self._clock.take(step)

    def carry_forward(
        self,
        values: NDArray[np.floating],
        age: NDArray[np.integer],
        raw: NDArray[np.floating],
    ) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """One step of bounded carry-forward, the same for logged and simulated patients.

        Args:
            values: [n, 39] values shown at the step before.
            age: [n, 39] steps since each was measured, ``NEVER`` if it was not.
            raw: [n, 39] new measurements, NaN where none.

        Returns:
            The new values (measured, else held, else the fill value) and ages.
        """
        return self.hold(values, age, raw, ~np.isnan(raw))

    def hold(
        self,
        values: NDArray[np.floating],
        age: NDArray[np.integer],
        raw: NDArray[np.floating],
        measured: NDArray[np.bool_],
    ) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """:meth:`carry_forward` with the [n, 39] mask apart; the rest of ``raw`` is not read."""
        new_age = np.minimum(age + _ONE_STEP, NEVER, dtype=np.int16)
        new_age *= ~measured
        held = self.filled(values, new_age)
        return np.where(measured, raw, held).astype(np.float32, copy=False), new_age

    def filled(
        self, values: NDArray[np.floating], age: NDArray[np.integer]
    ) -> NDArray[np.floating]:
        """[n, 39] the values that still count at these ages, else the fill value."""
        return np.where(self.known(age), values, self._fill)

    def first(
        self,
        raw: NDArray[np.floating],
        before: NDArray[np.floating] | None = None,
        before_age: NDArray[np.integer] | None = None,
    ) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
        """Values and ages of a first step.

        Args:
            raw: [n, 39] measurements of the step, NaN where none.
            before: [n, 39] last values from before it; None if nothing is known.
            before_age: [n, 39] how many steps ago those are, ``NEVER`` where there is none.
        """
        if before is None or before_age is None:
            before, before_age = raw, np.full(raw.shape, NEVER, np.int16)
        # carry_forward counts on from the step before; NEVER stays as it is
        return self.carry_forward(before, before_age - (before_age < NEVER), raw)

    def standardize(self, values: NDArray[np.floating]) -> NDArray[np.float32]:
        """[..., 39] clinical units to z-scores in model space."""
        scaled = to_model_space(values)
        scaled -= self._mean
        scaled /= self._scale
        return scaled.astype(np.float32, copy=False)

    def restore(self, standardized: NDArray[np.floating]) -> NDArray[np.float32]:
        """Inverse of :meth:`standardize`, kept inside each feature's physical limits."""
        values = np.multiply(standardized, self._scale, dtype=np.float32)
        values += self._mean
        np.minimum(np.maximum(values, _LIMITS[0], out=values), _LIMITS[1], out=values)
        skewed = np.expm1(values.take(_LOG_AT, -1))
        # once more, since expm1 rounds
        values[..., _LOG_AT] = np.minimum(np.maximum(skewed, LOW[_LOG_AT]), HIGH[_LOG_AT])
        return values

    def standardize_static(self, static: NDArray[np.floating]) -> NDArray[np.float32]:
        """[..., 3] age, male, Charlson to z-scores."""
        mean, scale = self._static
        return ((static - mean) / scale).astype(np.float32, copy=False)

    def feature_table(self) -> tuple[NDArray[Any], ...]:
        """[39] each, for code that goes feature by feature.

        Mean, scale, whether skewed, limits in model space, limits, fill value and longest hold.
        """
        limits = (*_LIMITS, LOW, HIGH)
        return self._mean, self._scale, LOG, *limits, self._fill, self.hold_steps

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Inverse of :meth:`to_dict`."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
        plain["action_bins"] = ActionBins.from_dict(plain["action_bins"])
        return cls(**plain)


def _scales(values: NDArray[np.floating]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation in model space of [R, 39] values, NaN where none."""
    mean, scale = to_model_space(TYPICAL), np.ones(N_FEATURES)
    for index in range(N_FEATURES):
        known = values[:, index][~np.isnan(values[:, index])].astype(np.float64)
        if len(known):
            seen = np.log1p(known) if LOG[index] else known
            mean[index] = seen.mean()
            scale[index] = max(seen.std(), SMALLEST_SCALE) if len(seen) > 1 else 1.0
    return tuple(mean.tolist()), tuple(scale.tolist())


def to_model_space(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """[..., 39] ``log1p`` of the skewed features, the others as they are."""
    model_space = np.array(values)
    model_space[..., _LOG_AT] = np.log1p(model_space.take(_LOG_AT, -1))
    return model_space


_ONE_STEP = np.int16(1)
_LOG_AT = np.flatnonzero(LOG)
_LIMITS = (to_model_space(LOW), to_model_space(HIGH))
