"""Patients in intensive care under doses that somebody else chooses, some hours at a time."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.dynamics import End
from sepsis_gym.features import N_FEATURES
from world_models.physiology.batch import Column
from world_models.physiology.bedside import N_GROUPS, TESTS, Instruments, measured, read
from world_models.physiology.body import DT, Body, advance
from world_models.physiology.courses import STEPS_PER_HOUR
from world_models.physiology.people import People
from world_models.physiology.unit import Luck, dies, drift, dying, happen, leaves, leaving

_CUTS = np.cumsum([People.width(), Body.width(), N_FEATURES, N_FEATURES, len(TESTS)])


@dataclass
class Beds:
    """n patients: traits, bodies, instruments."""

    people: People
    body: Body
    instruments: Instruments

    WIDTH = int(_CUTS[-1]) + 1
    """Columns when packed."""

    def __len__(self) -> int:
        """Number of patients."""
        return len(self.people)

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """The patients at these positions (repeats allowed)."""
        return type(self)(
            self.people.take(index), self.body.take(index), self.instruments.take(index)
        )

    def pack(self) -> NDArray[np.float32]:
        """[n, K] everything."""
        tools = self.instruments
        parts = [self.people.pack(), self.body.pack(), tools.offset, tools.error, tools.tested]
        return np.concatenate([*parts, tools.clock[:, None]], axis=1)

    @classmethod
    def unpack(cls, packed: NDArray[np.float32]) -> Self:
        """Inverse of :meth:`pack`; everything is copied."""
        people, body, *tools, clock = np.split(packed, _CUTS, axis=1)
        offset, error, tested = (tool.copy() for tool in tools)
        instruments = Instruments(offset, error, tested, clock[:, 0].copy())
        return cls(People.unpack(people), Body.unpack(body), instruments)


@dataclass(frozen=True)
class HourlyLuck:
    """All randomness of some hours of n patients, whatever becomes of them.

    Attributes:
        unit: Of the steps.
        error: [T, n, 39] standard normal, of the instruments.
        chance: [T, 13, n] uniform, of being measured.
    """

    unit: Luck
    error: NDArray[np.float32]
    chance: NDArray[np.float32]

    @classmethod
    def draw(cls, hours: int, n: int, rng: np.random.Generator) -> Self:
        """Draws from one stream."""
        return cls(
            Luck.draw(hours * STEPS_PER_HOUR, n, rng, rng),
            rng.standard_normal((hours, n, N_FEATURES), np.float32),
            rng.random((hours, N_GROUPS, n), np.float32),
        )


@dataclass
class Followed:
    """What some hours brought; nothing is recorded after the end of a stay.

    Attributes:
        readings: [T, n, 39] at the start of each hour.
        charted: [T, n, 39] which of them were charted.
        ongoing: [T, n] whether the stay still went on.
        ventilated: [T, n] invasive ventilation.
        treated: [T, n] 1 where the doses were given, 0 under comfort care.
        end: [n] :class:`End` codes, ``ONGOING`` where the patient is still here.
        bodies: [n, columns] packed, at the end of these hours or of the stay.
    """

    readings: NDArray[np.float32]
    charted: NDArray[np.bool_]
    ongoing: NDArray[np.bool_]
    ventilated: NDArray[np.bool_]
    treated: NDArray[np.float32]
    end: NDArray[np.int8]
    bodies: NDArray[np.float32]

    @classmethod
    def empty(cls, hours: int, n: int) -> Self:
        """To be filled in."""
        shape = (hours, n)
        return cls(
            np.empty((*shape, N_FEATURES), np.float32),
            np.empty((*shape, N_FEATURES), bool),
            np.empty(shape, bool),
            np.empty(shape, bool),
            np.empty(shape, np.float32),
            np.full(n, End.ONGOING, np.int8),
            np.empty((n, Body.width()), np.float32),
        )


def follow(
    beds: Beds, since: Column, hours: int, fluid_l_h: Column, dose: Column, luck: HourlyLuck
) -> Followed:
    """Moves n patients on, in place.

    Args:
        beds: The patients.
        since: [n] present time, h from ICU admission.
        hours: How long.
        fluid_l_h: [n] crystalloid, L/h, withheld under comfort care.
        dose: [n] vasopressor, ug/kg/min, withheld likewise.
        luck: Of these hours.
    """
    people, body, instruments = beds.people, beds.body, beds.instruments
    seen = Followed.empty(hours, len(beds))
    for hour in range(hours):
        now = since + np.float32(hour)
        ongoing = seen.end == End.ONGOING
        instruments.drift(luck.error[hour])
        readings = read(body, people, instruments)
        charted = measured(body, instruments, now, luck.chance[hour]) & ~np.isnan(readings)
        kept = 1 - body.comfort
        seen.readings[hour], seen.charted[hour] = readings, charted & ongoing[:, None]
        seen.ongoing[hour], seen.treated[hour] = ongoing, kept * ongoing
        seen.ventilated[hour] = ongoing & (body.ventilated > 0)
        given = fluid_l_h * kept, dose * kept
        for step in range(hour * STEPS_PER_HOUR, (hour + 1) * STEPS_PER_HOUR):
            time = since + np.float32(step * DT)
            chance = luck.unit.events[step]
            drift(body, luck.unit.drift[step])
            advance(body, people, time, *given)
            happen(body, people, time, chance)
            dead = ongoing & dies(body, chance[5])
            gone = ongoing & ~dead & leaves(body, people, time, chance[6])
            if (over := dead | gone).any():
                seen.end[dead], seen.end[gone] = End.DIED, End.DISCHARGED
                seen.bodies[over] = body.take(over).pack()
                ongoing = ongoing & ~over
    seen.bodies[ongoing] = body.pack()[ongoing]
    return seen


@dataclass
class Expected:
    """What some hours bring if nothing is left to chance.

    Attributes:
        readings: [T, n, 39] at the start of each hour, instruments erring as they must be expected
            to.
        died: [n] probability of death.
        left: [n] probability of leaving the ICU.
    """

    readings: NDArray[np.float32]
    died: NDArray[np.float32]
    left: NDArray[np.float32]


def foresee(beds: Beds, since: Column, hours: int, fluid_l_h: Column, dose: Column) -> Expected:
    """Moves n patients on, in place, as :func:`follow` does, but without luck.

    What drifts by itself fades as it does on average, and nothing happens: no tube goes in or out.
    The probabilities compete from step to step.
    """
    people, body, instruments = beds.people, beds.body, beds.instruments
    n = len(beds)
    calm, still = np.zeros((2, n), np.float32), np.zeros((n, N_FEATURES), np.float32)
    readings = np.empty((hours, n, N_FEATURES), np.float32)
    here: Column = np.ones(n, np.float32)
    died, left = np.zeros(n, np.float32), np.zeros(n, np.float32)
    kept = 1 - body.comfort
    for hour in range(hours):
        instruments.drift(still)
        readings[hour] = read(body, people, instruments)
        for step in range(hour * STEPS_PER_HOUR, (hour + 1) * STEPS_PER_HOUR):
            time = since + np.float32(step * DT)
            drift(body, calm)
            advance(body, people, time, fluid_l_h * kept, dose * kept)
            dead = here * dying(body)
            gone = (here - dead) * leaving(body, people, time)
            here = here - dead - gone
            died += dead
            left += gone
    return Expected(readings, died, left)
