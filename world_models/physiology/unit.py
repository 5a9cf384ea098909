"""What happens to a patient beside the two doses: drift, ventilation, dialysis, leaving, dying.

Every draw is made for every patient in every step, whatever its state, so that two policies that
start from one seed meet the same luck (potential outcomes, not only averages).
"""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from world_models.physiology.batch import Column, relu
from world_models.physiology.body import DT, Body
from world_models.physiology.people import People

_N_EVENTS = 7
_TONE_SD, _TONE_HOURS = 0.06, 3.0
_DRIVE_SD, _DRIVE_HOURS = 0.18, 12.0
"""Stationary deviations, log scale, and time constants of what drifts."""
COMFORT_HAZARD = 0.15
"""Of death under comfort care, 1/h, beside the body's own, which ``cumulative_hazard`` adds up."""
LEAVING_RATE = 0.027
"""Of those well enough, 1/h."""
EARLIEST_LEAVING_HOUR = 14
"""Nobody leaves before it, h from ICU admission."""


@dataclass
class Luck:
    """The randomness of some steps of n patients.

    Attributes:
        drift: [steps, 2, n] standard normal: vascular tone, inflammatory drive.
        events: [steps, 7, n] uniform: tube, rhythm, dialysis, drugs, comfort, death, leaving.
    """

    drift: NDArray[np.float32]
    events: NDArray[np.float32]

    @classmethod
    def draw(
        cls, steps: int, n: int, process: np.random.Generator, events: np.random.Generator
    ) -> Self:
        """Draws from one stream for what drifts and one for what happens."""
        return cls(
            process.standard_normal((steps, 2, n), np.float32),
            events.random((steps, _N_EVENTS, n), np.float32),
        )


def drift(body: Body, normal: NDArray[np.float32], dt: float = DT) -> None:
    """Moves tone and drive, which the treatment has no hand in.

    Args:
        body: n bodies.
        normal: [2, n] standard normal.
        dt: Length of the step, h.
    """
    for name, sd, hours, z in (
        ("tone_noise", _TONE_SD, _TONE_HOURS, normal[0]),
        ("drive_noise", _DRIVE_SD, _DRIVE_HOURS, normal[1]),
    ):
        kept = math.exp(-dt / hours)
        setattr(body, name, kept * getattr(body, name) + sd * math.sqrt(1 - kept * kept) * z)


def happen(body: Body, people: People, hour: float | Column, chance: NDArray[np.float32]) -> None:
    """Ventilation, rhythm, dialysis, steroids, diuretics, comfort care in one step of ``DT``.

    Args:
        body: n bodies.
        people: Their traits.
        hour: Time, h from ICU admission; one for all or [n], all before admission or none.
        chance: [7, n] uniform.
    """
    shock = (body.vasopressor > 0.15) | (body.lactate > 4.5)
    clouded = body.encephalopathy
    _switch(
        body,
        "ventilated",
        chance[0],
        on=0.030 * (body.oxygenation < 190)
        + 0.14 * (body.oxygenation < 110)
        + 0.05 * (clouded > 0.9)
        + 0.022 * shock
        + 0.02 * (body.vasopressor > 0.4)
        + 0.002,
        off=0.030 * ((body.oxygenation > 210) & (clouded < 0.7) & ~shock),
    )
    fire = np.minimum(body.inflammation, 2)
    fibrillates = 0.9 * fire + 1.6 * body.vasopressor + 0.03 * (people.age - 64)
    _switch(body, "fibrillation", chance[1], on=0.0012 * np.exp(fibrillates), off=0.05)
    if np.all(hour < 0):
        return  # the rest needs an intensive care unit
    failing = (body.filtration < 0.15) | (body.bun > 110)
    _switch(body, "dialysed", chance[2], on=0.05 * failing, off=0.02 * (body.filtration > 0.3))
    refractory = (body.vasopressor > 0.25) & (body.shock_hours > 4)
    _switch(body, "steroid", chance[3], on=0.06 * refractory, off=0.05 * (body.vasopressor <= 0))
    dry = (body.vasopressor <= 0) & (body.pressure > people.threshold + 5)
    wet = body.interstitium / people.size > 2.5
    _switch(body, "diuretic", 1 - chance[3], on=0.03 * (dry & wet), off=0.17 * (1 + 3 * ~dry))
    hopeless = relu(body.ischaemia + 0.5 * relu(body.lactate - 6) + people.frailty - 1.2)
    limited = (hour > 24) * 0.004 * hopeless * (1 + 0.03 * relu(people.age - 70))
    _switch(body, "comfort", chance[4], on=limited, off=0.0)


def _switch(body: Body, name: str, chance: Column, *, on: Column, off: Column | float) -> None:
    """Turns a flag on or off by its rates per hour."""
    now = getattr(body, name)
    flipped = np.where(now > 0, chance >= off * DT, chance < on * DT)
    setattr(body, name, flipped.astype(np.float32))


def risk_per_hour(body: Body) -> Column:
    """[n] hazard of death, 1/h, comfort care included."""
    return body.hazard + COMFORT_HAZARD * body.comfort


def dying(body: Body, dt: float = DT) -> Column:
    """[n] probability of death in the step."""
    return 1 - np.exp(-risk_per_hour(body) * np.float32(dt))


def dies(body: Body, chance: Column, dt: float = DT) -> NDArray[np.bool_]:
    """[n] who dies in the step."""
    return chance < dying(body, dt)


def leaving(body: Body, people: People, hour: float | Column, dt: float = DT) -> Column:
    """[n] probability of leaving the ICU in the step: well enough, and a bed is found."""
    well = (
        (body.vasopressor <= 0)
        & (body.ventilated <= 0)
        & (body.dialysed * (1 - people.dialysis) <= 0)
        & (body.debt < 0.25)
        & (body.lactate < 2.4)
        & (body.comfort <= 0)
        & (body.fio2 < 0.5)
    )
    return ((hour > EARLIEST_LEAVING_HOUR) & well) * np.float32(LEAVING_RATE * dt)


def leaves(
    body: Body, people: People, hour: float | Column, chance: Column, dt: float = DT
) -> NDArray[np.bool_]:
    """[n] who leaves the ICU in the step."""
    return chance < leaving(body, people, hour, dt)
