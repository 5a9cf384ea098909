"""Validity of what logs hide: confounding by indication, and how better logs undo it."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import Ridge
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from sepsis_gym.features import FEATURE_INDEX
from world_models.physiology.batch import Column
from world_models.physiology.body import DT, advance
from world_models.physiology.clinician import (
    ACTION_HOURS,
    FIRST_DOSE,
    FIRST_DOSE_SD,
    ClinicianConfig,
)
from world_models.physiology.courses import (
    Policy,
    Streams,
    Ward,
    admit,
    clinicians,
    run,
)
from world_models.physiology.fit_layer import binned
from world_models.physiology.policies import (
    withheld,
)
from world_models.physiology.validity.causal import constant, followed, risk_of, ward_at
from world_models.physiology.validity.checks import Check, at_least, at_most


def sign_reversal(n: int, seed: int) -> Iterator[Check]:
    """Test 15."""
    logged = risk_of(clinicians(), n, seed)
    early = (logged.dose[:6] > 0).any(0)
    crude = 100 * float(logged.risk[early].mean() - logged.risk[~early].mean())
    yield at_least(15, "crude risk difference of early vasopressor, points", crude, 8, 1)
    held = risk_of(withheld(clinicians()), n, seed)
    harm = 100 * (held.risk - logged.risk)[early]
    error = float(harm.std() / np.sqrt(len(harm)))
    name = "harm of withholding it from the same patients, points, above 3 SE"
    yield at_least(15, name, float(harm.mean()), 3 * error, 1)


LADDER = {
    "hourly titration": ClinicianConfig(),
    "decisions once per step": ClinicianConfig(decision_interval_hours=4),
    "and 10% exploration": ClinicianConfig(decision_interval_hours=4, exploration=0.10),
    "randomised": ClinicianConfig(decision_interval_hours=4, rct=True),
}
EFFECT_DOSE = 0.13


def ladder(n: int, seed: int) -> Iterator[Check]:
    """Test 16: bias of one estimator of the effect of a dose on MAP, as logs get better."""
    estimates = {name: _effect_on_pressure(config, n, seed) for name, config in LADDER.items()}
    biases = [abs(estimate / true - 1) for estimate, true in estimates.values()]
    effect = f"effect of {EFFECT_DOSE} ug/kg/min on MAP"
    yield at_most(16, f"bias of the {effect} in a randomised log", biases[-1], 0.15)
    yield Check(
        16,
        f"bias of the {effect} shrinks: {', '.join(LADDER)}",
        "falling",
        ", ".join(f"{estimate:.1f} for {true:.1f} mmHg" for estimate, true in estimates.values()),
        all(b < a + 0.02 for a, b in pairwise(biases)),
    )
    for cue, wanted in ((0.0, True), (1.0, False)):
        estimate, true = _effect_of_starting(cue, 16 * n, seed + 1)
        bias = abs(estimate / true - 1)
        yield Check(
            16,
            f"effect of starting on lactate, adjusted for the chart, cue strength {cue:g}",
            "bias < 15%" if wanted else "bias >= 15%",
            f"{estimate:+.2f} for {true:+.2f} mmol/L, {100 * bias:.0f}%",
            bool((bias < 0.15) == wanted),
        )


def _effect_of_starting(cue: float, n: int, seed: int) -> tuple[float, float]:
    """Estimate from a log and truth: change of lactate in 4 h, of those who may be started.

    Clinicians decide once per step. What they read, up to the cue, tells whom they start, so that
    regression on it gives the effect when the cue has no weight; the cue tells of hypoperfusion.
    """
    config = ClinicianConfig(decision_interval_hours=ACTION_HOURS, cue_strength=cue)
    streams = Streams.of(seed)
    ward = admit(n, streams, config)
    rows: list[NDArray[np.floating]] = []
    effects: list[NDArray[np.floating]] = []
    for step in range(5):
        hour = step * ACTION_HOURS
        read: dict[str, NDArray[np.floating]] = {}
        before = ward.body.copy()
        policy = _noting(clinicians(config), read)
        run(ward, policy, ACTION_HOURS, streams, record=False, leave=False, begin=hour)
        may = np.flatnonzero(
            (before.vasopressor <= 0) & (read["pressure"] < 64) & (ward.body.comfort <= 0)
        )
        seen = [read[name][may] for name in ("pressure", "lactate", "fluid_l", "given")]
        started = read["dose"][may] > 0
        change = ward.body.lactate[may] - before.lactate[may]
        rows.append(np.column_stack([*seen, started, change]))
        eligible, people = before.take(may), ward.people.take(may)
        noise = np.random.default_rng([seed, step]).standard_normal(len(may), np.float32)
        first = FIRST_DOSE * np.exp(FIRST_DOSE_SD * noise)
        arms = []
        for dose in (first, 0 * first):
            body = eligible.copy()
            for tick in range(round(ACTION_HOURS / DT)):
                advance(body, people, hour + tick * DT, read["given"][may] / ACTION_HOURS, dose)
            arms.append(body.lactate)
        effects.append(arms[0] - arms[1])
    table = np.concatenate(rows)
    basis = PolynomialFeatures(2).fit_transform(StandardScaler().fit_transform(table[:, :4]))
    started = table[:, 4] > 0
    # one fit for the started and one for the others, each asked about all of them
    predicted = [
        Ridge(alpha=1.0, fit_intercept=False).fit(basis[arm], table[arm, 5]).predict(basis)
        for arm in (started, ~started)
    ]
    estimate = float((predicted[0] - predicted[1]).mean())
    return estimate, float(np.concatenate(effects).mean())


def _noting(policy: Policy, read: dict[str, NDArray[np.floating]]) -> Policy:
    """The policy, noting what was read and given when it first decided."""

    def noted(ward: Ward, hour: int, rng: np.random.Generator) -> tuple[Column, Column, Column]:
        bolus_l, carrier, dose = policy(ward, hour, rng)
        if not read:
            read["pressure"], read["fluid_l"] = ward.pressure.copy(), ward.body.fluid_l.copy()
            read["lactate"] = ward.lactate.copy()
            read["given"], read["dose"] = bolus_l + ACTION_HOURS * carrier, dose.copy()
        return bolus_l, carrier, dose

    return noted


def _effect_on_pressure(config: ClinicianConfig, n: int, seed: int) -> tuple[float, float]:
    """Estimate from a log, and truth: MAP over the next step at the dose, against none."""
    streams = Streams.of(seed)
    courses = run(admit(n, streams), clinicians(config), 28, streams, leave=False)
    raw, _, _ = binned(courses)
    dose = courses.dose[:28].reshape(7, 4, n).max(1).T
    fluid = (courses.bolus_l + courses.carrier_l_h)[:28].reshape(7, 4, n).sum(1).T
    names = ("meanbp", "heart_rate", "resp_rate", "spo2", "sysbp", "output_4hourly")
    state = np.nan_to_num(raw[..., [FEATURE_INDEX[name] for name in names]], nan=0.0)
    lactate = raw[..., FEATURE_INDEX["lactate"]].copy()
    for t in range(1, 7):
        lactate[:, t] = np.where(np.isnan(lactate[:, t]), lactate[:, t - 1], lactate[:, t])
    lactate = np.nan_to_num(lactate, nan=1.8)
    rows = [
        np.column_stack([state[:, t], lactate[:, t], dose[:, t], fluid[:, t], courses.people.age])
        for t in range(6)
    ]
    context = np.concatenate(rows)
    given = np.concatenate([np.sqrt(dose[:, t + 1]) for t in range(6)])
    volume = np.concatenate([fluid[:, t + 1] for t in range(6)])
    following = np.concatenate([raw[:, t + 1, FEATURE_INDEX["meanbp"]] for t in range(6)])
    scaler = StandardScaler().fit(context)
    polynomial = PolynomialFeatures(2)

    def design(dose_root: NDArray[np.floating]) -> NDArray[np.float64]:
        both = np.column_stack([scaler.transform(context), dose_root, dose_root**2, volume])
        return polynomial.fit_transform(both)

    model = Ridge(alpha=10.0).fit(design(given), following)
    at_dose, at_none = (
        model.predict(design(np.full(len(given), np.sqrt(value)))) for value in (EFFECT_DOSE, 0.0)
    )
    return float((at_dose - at_none).mean()), _true_effect(n, seed)


def _true_effect(n: int, seed: int) -> float:
    """Mean difference of MAP over 4 h, over the hours of a log, on its patients."""
    effects = []
    for hours in (4, 12, 20):
        ward = ward_at(min(n, 1500), seed, hours)
        k = len(ward.people)
        arms = [
            np.mean([b.pressure for b in followed(ward, lambda _: 0.05, constant(k, dose), 4)], 0)
            for dose in (EFFECT_DOSE, 0.0)
        ]
        effects.append(float((arms[0] - arms[1]).mean()))
    return float(np.mean(effects))
