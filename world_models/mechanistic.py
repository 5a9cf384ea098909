"""The mechanistic patient as a transition model: dynamics whose causal effects are known."""

from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.dynamics import End, Simulation, Transition
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX, HIGH, LOW, N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.sofa import state_sofa
from world_models.checkpoint import load_preprocessing
from world_models.physiology.beds import Beds, Followed, HourlyLuck, follow, foresee
from world_models.physiology.bedside import Instruments, read
from world_models.physiology.binning import bin_readings
from world_models.physiology.body import Body, late_risk
from world_models.physiology.clinician import ClinicianConfig
from world_models.physiology.courses import Streams, admit, clinicians, run
from world_models.physiology.records.charting import Bedside, Charting

_Floats = NDArray[np.float32]
_MOST_DRAWS = 20
_MEMBERS = 40
_URINE = FEATURE_INDEX["output_4hourly"]


class MechanisticModel:
    """Patients of known physiology; a ``TransitionModel``.

    A step gives the fluid as an even drip and the vasopressor at a constant dose; meanwhile the
    body moves on every 15 minutes, the bedside is read every hour and charted as in the record of a
    synthetic cohort, and the stay may end between two readings. Under comfort care nothing is
    given, whatever was asked for. Memory is [n, K]: traits, body and instruments.

    Potential outcomes: a step draws the same random numbers in the same order whatever the states
    and doses are. Generators of one seed therefore give any two policies the same patients and,
    step by step, the same luck; what differs is the effect of the doses::

        for policy in policies:
            rng = np.random.default_rng(seed)
            patients = model.start(n, rng)
            for _ in range(model.preprocessing.max_steps):
                transition = model.step(patients, *policy(patients), rng)
                patients = transition.patients

    Keep on stepping patients whose stay is over, and ignore them: the others' draws depend on n.
    Two single environments that are reset with one seed compare in the same way.
    """

    def __init__(
        self,
        preprocessing: Preprocessing | None = None,
        clinician: ClinicianConfig | None = None,
    ) -> None:
        """Sets the clock.

        Args:
            preprocessing: Clock, scales and dose levels; those of the shipped world model if not
                given, so that the spaces are the same.
            clinician: Who treats the patients up to their first state.
        """
        self.preprocessing = preprocessing or load_preprocessing("default")
        self.clinician = clinician or ClinicianConfig()

    def start(self, n: int, rng: np.random.Generator) -> Patients:
        """Draws n patients who live to the end of their first bin in the ICU.

        Raises:
            ConfigError: Some die before it, however often they are drawn.
        """
        drawn, here = self._admit(n + n // 16 + 2, rng)  # some to spare: a second round is dear
        first = np.argsort(~here, kind="stable")[:n]
        patients, here = drawn.take(first), here[first]
        for _ in range(_MOST_DRAWS):
            missing = np.flatnonzero(~here)
            if not len(missing):
                return patients
            others, here[missing] = self._admit(len(missing), rng)
            patients = patients.put(missing, others)
        raise ConfigError(f"{(~here).sum()} of {n} patients died before their first state")

    def step(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
        rng: np.random.Generator,
    ) -> Transition:
        """Moves n patients one step on; ``epistemic`` is 0, since nothing is estimated.

        The ``previous_*`` doses of the patients are those given, less what comfort care withheld.
        Those who die or leave keep the body of that moment.
        """
        n, hours = len(patients), self.preprocessing.step_hours
        luck = HourlyLuck.draw(hours, n, rng)
        fluid, dose = _float32(fluid_ml), _float32(norepinephrine_equivalent)
        beds, now = _beds(patients), self._hour(patients)
        seen = follow(beds, now, hours, self._drip(fluid), dose, luck)
        raw = self._charted(seen, beds.instruments, dose, rng)
        values, age = self.preprocessing.carry_forward(patients.values, patients.age, raw)
        beds = replace(beds, body=Body.unpack(seen.bodies))
        following = replace(
            patients,
            values=values,
            age=age,
            ventilated=np.any(seen.ventilated, axis=0),
            previous_fluid_ml=fluid * (seen.treated.sum(0) / seen.ongoing.sum(0, np.float32)),
            previous_norepinephrine_equivalent=dose * seen.treated.max(0),
            step=patients.step + 1,
            memory=beds.pack(),
        )
        risk = _float32(late_risk(beds.body, beds.people))
        return Transition(following, seen.end, risk, np.zeros(n, np.float32))

    def simulate(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
    ) -> Simulation:
        """The truth about the step of one patient under each of k doses, but for its luck.

        The body takes the course that these doses give it when nothing drifts and nothing happens;
        ``spread`` is the error of the instruments around it, and ``ventilated`` the present tube.
        """
        k, hours = len(fluid_ml), self.preprocessing.step_hours
        asked = patients.asked(k)
        fluid, dose = _float32(fluid_ml), _float32(norepinephrine_equivalent)
        beds = _beds(asked)
        expected = foresee(beds, self._hour(asked), hours, self._drip(fluid), dose)
        values = bin_readings(expected.readings, ~np.isnan(expected.readings), hours)[0]
        values = np.where(np.isnan(values), asked.values, values)  # no verbal response with a tube
        ventilated = beds.body.ventilated
        # the prediction updates whatever is known now; what is not known yet stays unknown
        known = self.preprocessing.known(asked.age)
        given = dose * (1 - beds.body.comfort)
        late = _float32(late_risk(beds.body, beds.people))
        return Simulation(
            fluid_ml=fluid,
            norepinephrine_equivalent=dose,
            values=values,
            spread=_spread(beds, values),
            ventilated=ventilated,
            sofa=state_sofa(values, known, ventilated > 0, given),
            died=expected.died,
            discharged=expected.left,
            mortality_90d=expected.died + (1 - expected.died) * late,
            epistemic=np.zeros(k, np.float32),
        )

    def follow(self, patients: Patients, following: Patients) -> Patients:
        """Is refused: what was charted does not say which body was behind it.

        Raises:
            ConfigError: Always.
        """
        raise ConfigError(_NO_BODY)

    def _admit(self, n: int, rng: np.random.Generator) -> tuple[Patients, NDArray[np.bool_]]:
        """Patients after emergency care and one bin under clinicians; [n] who is still there."""
        hours = self.preprocessing.step_hours
        streams = Streams(*[rng] * 5)  # nobody is compared here, so one stream will do
        ward = admit(n, streams, self.clinician)
        course = run(ward, clinicians(self.clinician), hours, streams)
        bedside = Bedside.of(course)
        raw = Charting.draw(bedside, rng).binned(bedside, hours, hours)[0]
        values, age = self.preprocessing.first(raw)
        people = ward.people
        patients = Patients(
            values=values,
            age=age,
            ventilated=np.any(course.flags[..., 0] > 0, axis=0),
            static=np.stack([people.age, people.male, people.charlson], axis=1),
            previous_fluid_ml=1000 * (course.bolus_l + course.carrier_l_h).sum(0),
            previous_norepinephrine_equivalent=course.dose.max(0),
            step=np.zeros(n, np.int64),
            memory=Beds(people, ward.body, ward.instruments).pack(),
        )
        return patients, course.end == End.HORIZON

    def _charted(
        self, seen: Followed, instruments: Instruments, dose: _Floats, rng: np.random.Generator
    ) -> _Floats:
        """[n, 39] the step as a cohort's record has it; of who is gone nothing is charted."""
        hours = self.preprocessing.step_hours
        readings = np.where(seen.ongoing[..., None], seen.readings, np.float32(np.nan))
        given = dose * seen.treated
        bedside = Bedside(readings, seen.charted, seen.ventilated, given, instruments.tested)
        raw = Charting.draw(bedside, rng).binned(bedside, hours, hours)[0]
        pace = bin_readings(seen.readings, seen.charted, hours)[0]
        raw[:, _URINE] = pace[:, _URINE]  # these readings are of a pace, not of what was collected
        return raw

    def _hour(self, patients: Patients) -> _Floats:
        """[n] end of the bin that each state summarises, h from ICU admission."""
        return ((patients.step + 1) * self.preprocessing.step_hours).astype(np.float32)

    def _drip(self, fluid_ml: _Floats) -> _Floats:
        """Fluid per step to L/h."""
        return fluid_ml / np.float32(1000 * self.preprocessing.step_hours)


_NO_BODY = (
    "the mechanistic patient goes on from its own states only, a logged stay does not say which "
    "body was behind it: use a learned world model for logged stays"
)


def _beds(patients: Patients) -> Beds:
    if patients.memory.shape[1:] != (Beds.WIDTH,):
        raise ConfigError(_NO_BODY)
    return Beds.unpack(patients.memory)


def _float32(dose: NDArray[np.floating]) -> _Floats:
    return np.asarray(dose, np.float32)


def _even_errors() -> _Floats:
    """[m, 39] standard normal errors, each feature's evenly spaced (a Latin hypercube)."""
    rng = np.random.default_rng(0)
    levels = [NormalDist().inv_cdf((i + 0.5) / _MEMBERS) for i in range(_MEMBERS)]
    columns = [rng.permutation(np.array(levels, np.float32)) for _ in range(N_FEATURES)]
    return np.stack(columns, axis=1)


_ERRORS = _even_errors()


def _spread(beds: Beds, values: _Floats) -> _Floats:
    """[k, 2, 39] 5% and 95% of what the instruments may read instead of ``values``."""
    k, members = len(beds), len(_ERRORS)
    each = np.repeat(np.arange(k), members)
    many = beds.take(each)
    many.instruments.error = np.tile(_ERRORS, (k, 1))
    shown = read(many.body, many.people, many.instruments).reshape(k, members, N_FEATURES)
    exact = replace(beds.instruments, error=np.zeros_like(beds.instruments.error))
    centre = read(beds.body, beds.people, exact)
    bounds = np.quantile(shown, (0.05, 0.95), axis=1, method="hazen") - centre
    bounds = np.where(np.isnan(bounds), 0, bounds).astype(np.float32)
    return np.clip(values[:, None] + np.moveaxis(bounds, 0, 1), LOW, HIGH)
