"""Validity of what is done: dose responses, trials, limits.

Everything here compares the same patients under the same luck: potential outcomes, which no real
data hold.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import FEATURE_INDEX
from world_models.physiology.batch import Column
from world_models.physiology.body import DT, Body, advance, infected, late_risk
from world_models.physiology.courses import (
    Courses,
    Policy,
    Streams,
    Ward,
    admit,
    clinicians,
    run,
)
from world_models.physiology.people import People
from world_models.physiology.policies import (
    trial_arm,
)
from world_models.physiology.validity.checks import Check, at_least, at_most, within

WINDOW_HOURS = 52
_FALL = 0.01
"""What fluid may take off by calming the inflammation that hypoperfusion feeds; mmHg of CVP."""


def ward_at(n: int, seed: int, hours: int = 0) -> Ward:
    """Patients after so many hours of ordinary care."""
    streams = Streams.of(seed)
    ward = admit(n, streams)
    if hours:
        run(ward, clinicians(), hours, streams, record=False, leave=False)
    return ward


def followed(
    ward: Ward, fluid_l_h: Callable[[float], float], dose: Column, hours: float, begin: float = 6
) -> list[Body]:
    """The bodies after every 15 minutes of a treatment, with no luck at all."""
    body, n = ward.body.copy(), len(ward.people)
    states = []
    for step in range(round(hours / DT)):
        flow = np.full(n, fluid_l_h(step * DT), np.float32)
        advance(body, ward.people, begin + step * DT, flow, dose)
        states.append(body.copy())
    return states


def risk_of(
    policy: Policy, n: int, seed: int, who: Callable[[Ward], NDArray[np.bool_]] | None = None
) -> Courses:
    """52 h of a policy; the same seed brings the same patients and luck."""
    streams = Streams.of(seed)
    ward = admit(n, streams)
    if who is not None:
        ward = ward.take(np.flatnonzero(who(ward)))
    return run(ward, policy, WINDOW_HOURS, streams, leave=False)


# ------------------------------------------------------------------------------ dose responses


def dose_responses(n: int, seed: int) -> Iterator[Check]:
    """Test 7."""
    ward = ward_at(n, seed, 6)
    doses = (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)
    pressures = np.stack(
        [followed(ward, lambda _: 0.02, constant(n, dose), 1)[-1].pressure for dose in doses]
    )
    rising = (np.diff(pressures, axis=0) >= -0.05).all(0)
    yield at_least(7, "patients whose MAP never falls as norepinephrine rises", rising.mean(), 1, 3)
    ends = [
        followed(ward, _steady(litres / 4), ward.body.vasopressor, 4)[-1]
        for litres in (0.0, 0.25, 0.5, 1.0, 2.0)
    ]
    for name in ("venous_pressure", "lung_water"):
        values = np.stack([getattr(end, name) for end in ends])
        share = (np.diff(values, axis=0) >= -_FALL).all(0).mean()
        label = name.replace("_", " ")
        yield at_least(7, f"patients whose {label} never falls as fluid rises", share, 0.99, 3)


def _steady(litres_h: float) -> Callable[[float], float]:
    return lambda _: litres_h


def constant(n: int, value: float) -> Column:
    """[n] one value."""
    return np.full(n, value, np.float32)


def _shocked(ward: Ward) -> Ward:
    """Those on vasopressor who are still short of perfusion."""
    body = ward.body
    return ward.take(
        np.flatnonzero((body.vasopressor > 0.05) & ((body.lactate > 2) | (body.pressure < 65)))
    )


def bolus(n: int, seed: int) -> Iterator[Check]:
    """Tests 7 and 8: 500 mL in 30 minutes (Nunes 2014)."""
    ward = _shocked(ward_at(n, seed, 6))
    without = followed(ward, lambda _: 0.0, ward.body.vasopressor, 1.5)
    given = followed(ward, lambda t: 1.0 if t < 0.5 else 0.0, ward.body.vasopressor, 1.5)
    gains = [given[i].output / without[i].output - 1 for i in (1, 3, 5)]
    means = [100 * float(gain.mean()) for gain in gains]
    responders = float((gains[0] > 0.15).mean())
    yield within(7, "responders (cardiac output +15%) to 500 mL", responders, 0.40, 0.65)
    yield at_most(7, "effect left at 90 min", means[2] / means[0], 1 / 3)
    failing = ward.people.heart_failure > 0
    share = float(gains[0][failing].mean() / gains[0][~failing].mean())
    yield at_most(7, "response in heart failure, of the others'", share, 0.5)
    for minutes, mean, target in zip((30, 60, 90), means, (18.0, 7.0, 3.0), strict=True):
        yield _effect(f"cardiac output {minutes} min after 500 mL, % (Nunes 2014)", mean, target)


def _effect(name: str, value: float, target: float) -> Check:
    low, high = sorted((0.65 * target, 1.35 * target))
    return replace(within(8, name, value, low, high, 1), target=f"{target:g} +- 35%")


def norepinephrine(n: int, seed: int) -> Iterator[Check]:
    """Test 8: beginning, weaning, titrating."""
    fresh = ward_at(n, seed)
    low = (fresh.body.vasopressor <= 0) & (fresh.body.pressure < 60)
    fresh = fresh.take(np.flatnonzero(low))
    k = len(fresh.people)
    without = followed(fresh, lambda _: 0.0, constant(k, 0), 1)[-1]
    rise = followed(fresh, lambda _: 0.0, constant(k, 0.1), 1)[-1].pressure - without.pressure
    yield _effect("MAP by 0.1 ug/kg/min in untreated hypotension, mmHg", float(rise.mean()), 11.0)
    started = followed(fresh, lambda _: 0.0, constant(k, 0.2), 1)[-1]
    gain = 100 * float((started.output / without.output - 1).mean())
    yield _effect("cardiac output as MAP goes from 54 to 76, % (Hamzaoui 2010)", gain, 12.0)
    ward = ward_at(n, seed, 6)
    on = ward.take(np.flatnonzero((ward.body.vasopressor > 0.22) & (ward.body.vasopressor < 0.45)))
    k = len(on.people)
    more, less = (followed(on, lambda _: 0.0, constant(k, dose), 2)[-1] for dose in (0.32, 0.26))
    change = 100 * float((less.pressure / more.pressure - 1).mean())
    yield _effect("MAP when 0.32 goes to 0.26 ug/kg/min, % (Adda 2021)", change, -10.0)
    yield from _titrated(_shocked(ward))


def _titrated(ward: Ward) -> Iterator[Check]:
    """Dose and output at set pressures (LeDoux 2000, Thooft 2011)."""
    grid = np.array([0.02, 0.04, 0.07, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.75, 1, 1.4, 2], np.float32)
    k = len(ward.people)
    ends = [followed(ward, lambda _: 0.0, constant(k, float(dose)), 1)[-1] for dose in grid]
    pressure = np.stack([end.pressure for end in ends])
    output = np.stack([end.output for end in ends])
    able = np.flatnonzero((pressure[0] < 65) & (pressure[-1] > 85))
    needed = {
        target: np.array([np.interp(target, pressure[:, i], grid) for i in able])
        for target in (65, 75, 85)
    }
    for target, dose in zip((65, 75, 85), (0.29, 0.39, 0.59), strict=True):
        name = f"dose that holds MAP {target}, ug/kg/min (LeDoux 2000)"
        yield replace(
            _effect(name, float(np.mean(needed[target])), dose),
            value=f"{np.mean(needed[target]):.2f}",
        )
    at = {
        target: np.mean([np.interp(target, pressure[:, i], output[:, i]) for i in able])
        for target in (65, 85)
    }
    gain = 100 * float(at[85] / at[65] - 1)
    yield _effect("cardiac output as MAP goes from 65 to 85, % (Thooft 2011)", gain, 10.0)


def _fluid_24h(courses: Courses) -> Column:
    """[n] litres in the first day."""
    return (courses.bolus_l + courses.carrier_l_h)[:24].sum(0)


def trials(n: int, seed: int) -> Iterator[Check]:
    """Test 8: trial arms on the same patients; points of expected 90-day death."""

    def difference(one: Policy, other: Policy, who: Callable[[Ward], NDArray[np.bool_]]) -> float:
        arms = [risk_of(policy, n, seed, who).risk for policy in (one, other)]
        return 100 * float((arms[0] - arms[1]).mean())

    def on(ward: Ward) -> NDArray[np.bool_]:
        return ward.body.vasopressor > 0

    def hypotensive(ward: Ward) -> NDArray[np.bool_]:
        return on(ward) | (ward.body.pressure < 65)

    def old(ward: Ward) -> NDArray[np.bool_]:
        return on(ward) & (ward.people.age >= 65)

    liberal = difference(trial_arm(fluid="liberal"), trial_arm(fluid="restrictive"), hypotensive)
    yield within(8, "CLOVERS: liberal - restrictive fluid, points", liberal, -2.6, 4.4, 1)
    more, less = (
        risk_of(trial_arm(fluid=fluid), n, seed, hypotensive)
        for fluid in ("liberal", "restrictive")
    )
    apart = (_fluid_24h(more) - _fluid_24h(less)).mean()
    yield within(8, "CLOVERS: the arms differ by, L in 24 h (2.1)", float(apart), 1.4, 2.8, 1)
    high = difference(trial_arm(target=82.5), trial_arm(target=67.5), on)
    yield within(8, "SEPSISPAM: high - low pressure, points", high, -4, 9, 1)
    arms = [risk_of(trial_arm(target=target), n, seed, on) for target in (82.5, 67.5)]
    pressures = [float(arm.readings[4:, :, FEATURE_INDEX["meanbp"]].mean()) for arm in arms]
    yield at_least(8, "SEPSISPAM: the arms differ by, mmHg", pressures[0] - pressures[1], 8, 1)
    permissive = difference(trial_arm(target=62.5), trial_arm(target=69), old)
    yield within(8, "65 trial: permissive - usual pressure, points", permissive, -6, 2, 1)


# ------------------------------------------------------------------------------ limits


def limits(n: int, seed: int) -> Iterator[Check]:
    """Test 9: no antibiotic, no bacteria."""
    ward = ward_at(n, seed)
    ward.people.antibiotic_hour = constant(n, 1e6)
    body = ward.body.copy()
    for step in range(round(48 / DT)):
        advance(body, ward.people, step * DT, constant(n, 0.05), ward.body.vasopressor)
    share = float((body.inflammation > 0.5 * ward.body.inflammation).mean())
    yield at_least(9, "inflammation persists 48 h without an antibiotic", share, 0.95)
    body = healthy(n, seed)
    pressure, lactate, urine = [], [], []
    people = _ordinary(n, seed)
    for step in range(round(48 / DT)):
        advance(body, people, step * DT, constant(n, 0.06), constant(n, 0.0))
        if step * DT >= 12:
            pressure.append(body.pressure)
            lactate.append(body.lactate)
            urine.append(body.urine_ml_h / people.weight_kg)
    death = float((1 - np.exp(-body.cumulative_hazard)).mean())
    yield within(9, "MAP of the healthy, mmHg", float(np.mean(pressure)), 80, 95, 1)
    yield within(9, "lactate of the healthy, mmol/L", float(np.mean(lactate)), 0.9, 1.5)
    yield at_least(9, "urine of the healthy, mL/kg/h", float(np.mean(urine)), 0.5)
    yield at_most(9, "death of the healthy in 48 h, %", 100 * death, 0.5)


def _ordinary(n: int, seed: int) -> People:
    """Traits of people without chronic illness or a fluid deficit."""
    people = ward_at(n, seed).people
    well = (people.heart_failure + people.kidney_disease + people.dialysis + people.cirrhosis) == 0
    index = np.resize(np.flatnonzero(well), n)
    people = people.take(index)
    people.deficit = constant(n, 0)
    return people


def healthy(n: int, seed: int) -> Body:
    """Bodies without bacteria or inflammation."""
    body = infected(_ordinary(n, seed), np.random.default_rng(seed))
    body.bacteria[:] = 0
    body.inflammation[:] = 0
    body.ventilated[:] = 0
    return body


def step_size(n: int, seed: int) -> Iterator[Check]:
    """Test 10."""
    ward = ward_at(n, seed)
    risks = []
    for dt in (DT, DT / 4):
        body = ward.body.copy()
        for step in range(round(WINDOW_HOURS / dt)):
            advance(body, ward.people, step * dt, constant(n, 0.05), ward.body.vasopressor, dt)
        risks.append(expected_death(body, ward.people))
    change = 100 * abs(float((risks[0] - risks[1]).mean()))
    yield at_most(10, "52-h risk at a quarter of the step, points", change, 0.5)
    one, two = (risk_of(clinicians(), min(n, 300), seed) for _ in range(2))
    same = np.array_equal(one.readings, two.readings, equal_nan=True)
    yield Check(10, "same seed, same bits", "equal", "equal" if same else "differ", same)
    changed = risk_of(_changes_at(clinicians(), 20), min(n, 300), seed)
    # the readings of hour 20 are made before its doses
    before = np.array_equal(one.readings[:21], changed.readings[:21], equal_nan=True)
    after = not np.array_equal(one.readings[21:], changed.readings[21:], equal_nan=True)
    yield Check(
        10,
        "an action changed at 20 h changes nothing before it",
        "nothing",
        "nothing" if before else "something",
        before and after,
    )


def expected_death(body: Body, people: People) -> NDArray[np.float32]:
    """[n] probability of death by day 90, in the simulated hours or after them."""
    return 1 - np.exp(-body.cumulative_hazard) * (1 - late_risk(body, people))


def _changes_at(policy: Policy, when: int) -> Policy:
    def changed(ward: Ward, hour: int, rng: np.random.Generator) -> tuple[Column, Column, Column]:
        bolus_l, carrier, dose = policy(ward, hour, rng)
        return (bolus_l + np.float32(hour == when), carrier, dose)

    return changed
