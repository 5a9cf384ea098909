"""Whole ICU courses: patients drawn, brought in, treated and followed hour by hour."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS, ActionBins
from sepsis_gym.dynamics import End
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES
from world_models.physiology.batch import Column
from world_models.physiology.bedside import N_GROUPS, Instruments, measured, read
from world_models.physiology.body import DT, Body, advance, illness, infected, late_risk
from world_models.physiology.clinician import (
    ACTION_HOURS,
    Chart,
    ClinicianConfig,
    Decisions,
    Style,
    draw_style,
    impression,
    prescribe,
    unusual_habits,
)
from world_models.physiology.people import People, draw_people
from world_models.physiology.unit import Luck, dies, drift, happen, leaves, risk_per_hour

STEPS_PER_HOUR = round(1 / DT)
HOURS_BEFORE = 12
"""Infection begins so long before ICU admission; the emergency department treats half of it."""
FLAGS = ("ventilated", "dialysed", "steroid", "diuretic", "comfort")
HIDDEN = ("debt", "inflammation", "illness", "lung_water", "filtration")
"""Names along the last axis of :class:`Courses` ``flags`` and ``hidden``."""
MAP, LACTATE, FIO2, URINE = (
    FEATURE_INDEX[name] for name in ("meanbp", "lactate", "fio2", "output_4hourly")
)


@dataclass
class Streams:
    """Separate randomness, so that one policy's draws never move another's luck."""

    patient: np.random.Generator
    process: np.random.Generator
    events: np.random.Generator
    policy: np.random.Generator
    measurement: np.random.Generator

    @classmethod
    def of(cls, seed: int | np.random.SeedSequence) -> "Streams":
        """Five streams from one seed."""
        sequence = (
            seed if isinstance(seed, np.random.SeedSequence) else np.random.SeedSequence(seed)
        )
        return cls(*(np.random.default_rng(child) for child in sequence.spawn(5)))


@dataclass
class Ward:
    """n patients and everything that moves with them.

    Attributes:
        people: Traits.
        body: Present state.
        instruments: What makes their readings their own.
        style: The clinician at each bed.
        lactate: [n] last one reported, mmol/L.
        readings: [n, 39] of the present hour; urine is four times what is charted in it, mL.
        uncharted_ml: [n] urine since it was last charted.
        urine_ml_h: [n] its present pace.
        pressure: [n] running mean of the hourly pressures, the last one half of it, mmHg.
    """

    people: People
    body: Body
    instruments: Instruments
    style: Style
    lactate: Column
    readings: NDArray[np.float32]
    uncharted_ml: Column
    urine_ml_h: Column
    pressure: Column

    def take(self, index: NDArray[np.integer]) -> "Ward":
        """The patients at these positions (repeats allowed)."""
        return Ward(
            *(
                getattr(self, f.name)[index]
                if isinstance(getattr(self, f.name), np.ndarray)
                else getattr(self, f.name).take(index)
                for f in fields(self)
            )
        )

    def chart(self, cue_strength: float) -> Chart:
        """What the clinicians read now."""
        return Chart(
            pressure=self.pressure,
            lactate=self.lactate,
            urine_ml_h=self.urine_ml_h,
            fio2=self.readings[:, FIO2],
            cue=impression(self.body, self.people, cue_strength),
        )

    def look(
        self, hour: float, normal: NDArray[np.float32], chance: NDArray[np.float32]
    ) -> NDArray[np.bool_]:
        """Reads the hour's values; returns [n, 39] which of them are charted."""
        self.instruments.drift(normal)
        self.readings = read(self.body, self.people, self.instruments)
        charted = measured(self.body, self.instruments, hour, chance) & ~np.isnan(self.readings)
        self.pressure = 0.5 * self.pressure + 0.5 * self.readings[:, MAP]
        self.urine_ml_h = self.readings[:, URINE] / 4
        self.uncharted_ml = self.uncharted_ml + self.urine_ml_h
        self.readings[:, URINE] = 4 * self.uncharted_ml
        self.uncharted_ml = np.where(charted[:, URINE], np.float32(0), self.uncharted_ml)
        self.lactate = np.where(charted[:, LACTATE], self.readings[:, LACTATE], self.lactate)
        return charted

    def live(self, hour: float, fluid_l_h: Column, dose: Column, luck: Luck) -> None:
        """One hour under these doses, with the luck of its steps; death is the caller's."""
        for step in range(STEPS_PER_HOUR):
            now = hour + step * DT
            drift(self.body, luck.drift[step])
            advance(self.body, self.people, now, fluid_l_h, dose)
            happen(self.body, self.people, now, luck.events[step])


def admit(n: int, streams: Streams, clinician: ClinicianConfig | None = None) -> Ward:
    """Draws n patients and brings them through ward and emergency care to the ICU door.

    Args:
        n: How many.
        streams: Randomness.
        clinician: Who treats them on the way (by the cue alone) and takes over at the door.
    """
    clinician = clinician or ClinicianConfig()
    people = draw_people(n, streams.patient)
    ward = Ward(
        people=people,
        body=infected(people, streams.patient),
        instruments=Instruments.draw(n, streams.patient),
        style=draw_style(people, streams.patient),
        lactate=np.full(n, 1.2, np.float32),
        readings=np.zeros((n, N_FEATURES), np.float32),
        uncharted_ml=np.zeros(n, np.float32),
        urine_ml_h=np.full(n, 50, np.float32),
        pressure=np.full(n, 80, np.float32),
    )
    nothing = np.zeros(n, np.float32)
    for hour in range(-HOURS_BEFORE, 0):
        fluid: Column = nothing
        dose: Column = nothing
        if hour >= -HOURS_BEFORE // 2:
            luck_of_reading = streams.patient.standard_normal((n, N_FEATURES), np.float32)
            ward.look(hour, luck_of_reading, streams.patient.random((N_GROUPS, n), np.float32))
            draws = Decisions.draw(n, streams.patient)
            bolus, carrier, dose = prescribe(
                ward.chart(clinician.cue_strength), ward.style, people, ward.body, hour, draws
            )
            slow = streams.patient.random(n, np.float32) < 0.5
            fluid = (bolus + carrier) * np.where(slow, np.float32(0.5), np.float32(1))
            dose = dose if hour >= -4 else nothing
        ward.live(hour, fluid, dose, Luck.draw(STEPS_PER_HOUR, n, streams.patient, streams.patient))
    if clinician.unusual:  # a child of the stream, which moves no other draw
        ward.style = unusual_habits(ward.style, clinician.unusual, streams.policy.spawn(1)[0])
    ward.body.cumulative_hazard[:] = 0
    ward.uncharted_ml[:] = 0
    return ward


Policy = Callable[[Ward, int, np.random.Generator], tuple[Column, Column, Column]]
"""(ward, hour, policy stream) to bolus in L, carrier in L/h and dose in ug/kg/min, for an hour.

A policy remembers what it holds: make a new one for every run.
"""


def clinicians(config: ClinicianConfig | None = None) -> Policy:
    """The behaviour policy of logged data.

    Args:
        config: What makes the log hard or easy to learn from.
    """
    config = config or ClinicianConfig()
    doses = ActionBins().doses(np.arange(N_ACTIONS))
    held: dict[str, Column] = {}

    def policy(ward: Ward, hour: int, rng: np.random.Generator) -> tuple[Column, Column, Column]:
        draws = Decisions.draw(len(ward.people), rng)
        action = rng.integers(N_ACTIONS, size=len(ward.people))
        explores = rng.random(len(ward.people)) < (1.0 if config.rct else config.exploration)
        chart = ward.chart(config.cue_strength)
        bolus, carrier, dose = prescribe(chart, ward.style, ward.people, ward.body, hour, draws)
        if hour % ACTION_HOURS == 0 or not held:
            held["explores"] = explores.astype(np.float32)
            held["drip"] = (doses[0][action] / 1000 / ACTION_HOURS).astype(np.float32)
            held["tried"] = doses[1][action].astype(np.float32)
        decides = hour % config.decision_interval_hours == 0 or "dose" not in held
        if decides:
            held.update(carrier=carrier, dose=dose)
        explored = held["explores"] > 0
        return (
            np.where(explored | (not decides), np.float32(0), bolus),
            np.where(explored, held["drip"], held["carrier"]),
            np.where(explored, held["tried"], held["dose"]),
        )

    return policy


@dataclass
class Courses:
    """n ICU courses of T hours.

    Everybody is followed for T hours, so that luck does not depend on who is still there: rows from
    ``end_hour`` on tell of nobody.

    Attributes:
        people: Traits.
        style: Clinicians.
        instruments: As at the end.
        readings: [T, n, 39] hourly readings, NaN where a value cannot be had.
        charted: [T, n, 39] which of them were charted.
        bolus_l: [T, n] bolus of each hour.
        carrier_l_h: [T, n] carrier fluid.
        dose: [T, n] vasopressor, ug/kg/min.
        flags: [T, n, 5] ``FLAGS`` at the start of each hour.
        hidden: [T, n, 5] ``HIDDEN`` states then.
        end: [n] :class:`End` codes; HORIZON where the record ends first.
        end_hour: [n] when.
        late_risk: [n] probability of death by day 90 of those who left alive.
        risk: [n] expected 90-day death of all T hours and after, without the luck of dying, of
            leaving, or of comfort care.
    """

    people: People
    style: Style
    instruments: Instruments
    readings: NDArray[np.float32]
    charted: NDArray[np.bool_]
    bolus_l: NDArray[np.float32]
    carrier_l_h: NDArray[np.float32]
    dose: NDArray[np.float32]
    flags: NDArray[np.float32]
    hidden: NDArray[np.float32]
    end: NDArray[np.int8]
    end_hour: Column
    late_risk: Column
    risk: Column


@dataclass
class _Ends:
    """How the stays of n patients end.

    Attributes:
        code: [n] :class:`End` codes.
        hour: [n] when.
        late: [n] risk of death by day 90 of those who left.
        log_alive: [n] log probability of being alive, whoever happens to die.
    """

    code: NDArray[np.int8]
    hour: Column
    late: Column
    log_alive: Column

    @classmethod
    def ahead(cls, n: int, last_hour: int) -> "_Ends":
        """Nobody's stay is over, and the record ends at the last hour."""
        return cls(
            np.full(n, End.ONGOING, np.int8),
            np.full(n, last_hour, np.float32),
            np.zeros(n, np.float32),
            np.zeros(n, np.float32),
        )

    def meet(self, ward: Ward, now: float, chance: NDArray[np.float32], *, leave: bool) -> None:
        """Who dies or leaves in the step that begins now; ``chance`` is [7, n] uniform."""
        body, people = ward.body, ward.people
        ongoing = self.code == End.ONGOING
        dead = ongoing & dies(body, chance[5])
        gone = ongoing & ~dead & leaves(body, people, now, chance[6]) & leave
        self.code[dead], self.code[gone] = End.DIED, End.DISCHARGED
        self.hour[dead | gone] = now + DT
        self.late[gone] = late_risk(body, people)[gone]
        # the expectation stops with those who leave, and knows nothing of who happens to die
        hazard = np.where(self.code == End.DISCHARGED, 0, risk_per_hour(body))
        self.log_alive = self.log_alive - hazard * np.float32(DT)


def run(
    ward: Ward,
    policy: Policy,
    hours: int,
    streams: Streams,
    *,
    record: bool = True,
    leave: bool = True,
    begin: int = 0,
) -> Courses:
    """Follows the patients of a ward under a policy.

    Args:
        ward: Who and in what state; moves on in place.
        policy: Sets the doses of every hour.
        hours: How long.
        streams: Randomness.
        record: Whether to keep the readings and doses.
        leave: Whether patients may leave the ICU.
        begin: Hour from ICU admission at which the ward is.
    """
    n, people = len(ward.people), ward.people
    ends = _Ends.ahead(n, begin + hours)
    rows: dict[str, list[NDArray[Any]]] = {name: [] for name in RECORDED}
    for hour in range(begin, begin + hours):
        charted = ward.look(
            hour,
            streams.measurement.standard_normal((n, N_FEATURES), np.float32),
            streams.measurement.random((N_GROUPS, n), np.float32),
        )
        bolus, carrier, dose = policy(ward, hour, streams.policy)
        kept = 1 - ward.body.comfort
        bolus, carrier, dose = bolus * kept, carrier * kept, dose * kept
        if record:
            given = {"bolus_l": bolus, "carrier_l_h": carrier, "dose": dose}
            seen = {"readings": ward.readings, "charted": charted}
            for name, row in (seen | given | _unseen(ward)).items():
                rows[name].append(row)
        luck = Luck.draw(STEPS_PER_HOUR, n, streams.process, streams.events)
        for step in range(STEPS_PER_HOUR):
            now = hour + step * DT
            drift(ward.body, luck.drift[step])
            advance(ward.body, people, now, bolus + carrier, dose)
            happen(ward.body, people, now, luck.events[step])
            ends.meet(ward, now, luck.events[step], leave=leave)
    stayed = ends.code != End.DISCHARGED
    ends.late[stayed] = late_risk(ward.body, people)[stayed]
    ends.code[ends.code == End.ONGOING] = End.HORIZON
    recorded: dict[str, Any] = {
        name: np.stack(row) if row else np.zeros((0, n)) for name, row in rows.items()
    }
    return Courses(
        people=people,
        style=ward.style,
        instruments=ward.instruments,
        **recorded,
        end=ends.code,
        end_hour=ends.hour,
        late_risk=ends.late,
        risk=(1 - np.exp(ends.log_alive) * (1 - ends.late)).astype(np.float32),
    )


RECORDED = ("readings", "charted", "bolus_l", "carrier_l_h", "dose", "flags", "hidden")
"""Names of the hourly arrays of :class:`Courses`."""


def _unseen(ward: Ward) -> dict[str, NDArray[np.float32]]:
    """[n, 5] flags and [n, 5] hidden states of the present."""
    states = vars(ward.body) | {"illness": illness(ward.body, ward.people)}
    return {
        "flags": np.stack([states[name] for name in FLAGS], axis=1),
        "hidden": np.stack([states[name] for name in HIDDEN], axis=1),
    }
