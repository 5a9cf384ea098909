"""Simulated patients treated by somebody else, recorded and paid as a cohort of clinicians' are."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.dynamics import Choose, End, Treated
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.reward import RewardConfig, step_reward
from world_models.physiology.batch import Column
from world_models.physiology.clinician import ClinicianConfig
from world_models.physiology.courses import RECORDED, Courses, Policy, Ward, admit, clinicians, run
from world_models.physiology.records.blocks import RECORDED_HOURS, block_streams
from world_models.physiology.records.stays import FIRST_STAY
from world_models.physiology.records.trajectories import raw_cohort

HYPOTENSION_MMHG = 65.0


@dataclass(frozen=True)
class MechanisticWard:
    """Patients of a synthetic cohort, whom anybody may treat; a ``sepsis_gym.dynamics.Ward``.

    Clinicians treat everybody up to the first state and after the horizon, as in the cohort, and
    all the time where nobody else chooses. States, ends and rewards are read from the record by the
    cohort's own code, so that a value is of the kind that is estimated from the cohort: who dies or
    leaves within two steps of admission is no stay of it, and a step that is cut short is not
    counted. The body and the way a dose is given are those of ``SepsisPhysio-v0``.

    Attributes:
        preprocessing: Clock, scales and dose levels of the cohort.
        clinician: Who treated it.
        reward: What it paid.
    """

    preprocessing: Preprocessing
    clinician: ClinicianConfig
    reward: RewardConfig

    def __post_init__(self) -> None:
        """Refuses states that hold what the action has brought about."""
        if self.preprocessing.alignment != "causal":
            raise ConfigError("a true value needs a cohort of causal alignment; build one")

    def __call__(self, n: int, seed: int, choose: Choose | None = None) -> Treated:
        """Treats n patients, see :class:`~sepsis_gym.dynamics.Ward`."""
        step = self.preprocessing.step_hours
        streams = block_streams(seed, 0)
        ward = admit(n, streams, self.clinician)
        usual, record = clinicians(self.clinician), _Record(self.preprocessing, seed)
        for begin in range(0, RECORDED_HOURS - step + 1, step):
            policy = usual
            if choose is not None and step <= begin <= self.preprocessing.max_steps * step:
                policy = self._given(choose(record.state()))
            record.add(run(ward, record.watching(policy), step, streams, begin=begin), begin)
            if (record.courses.end != End.HORIZON).all():
                break
        return self._paid(record, seed)

    def _given(self, action: NDArray[np.integer]) -> Policy:
        """These actions' doses, fluid as an even drip."""
        fluid_ml, dose = self.preprocessing.action_bins.doses(action)
        drip = fluid_ml / np.float32(1000 * self.preprocessing.step_hours)
        return lambda ward, hour, rng: (np.zeros_like(drip), drip, dose)

    def _paid(self, record: "_Record", seed: int) -> Treated:
        courses, step = record.courses, self.preprocessing.step_hours
        mortality = np.where(courses.end == End.DIED, 1.0, courses.late_risk.astype(np.float64))
        hour = np.arange(len(record.pressure))[:, None]
        here = (hour >= step) & (hour < courses.end_hour)
        low = here & (np.stack(record.pressure) < HYPOTENSION_MMHG)
        reward, mask = self._rewards(courses, seed, mortality)
        return Treated(
            reward=reward,
            mask=mask,
            present=courses.end_hour > step,
            mortality_90d=mortality,
            hypotensive_hours=low.sum(0).astype(np.float64),
            hours=here.sum(0).astype(np.float64),
        )

    def _rewards(
        self, courses: Courses, seed: int, mortality: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """[n, T] rewards, and which of the decisions there were."""
        shape = len(mortality), self.preprocessing.max_steps
        reward, mask = np.zeros(shape), np.zeros(shape, bool)
        raw = raw_cohort([courses], step_hours=self.preprocessing.step_hours, seed=seed)
        if not len(raw.stays["stay_id"]):
            return reward, mask
        config = AssemblyConfig(step_hours=self.preprocessing.step_hours, reward=self.reward)
        stays = assemble(
            raw, config, source="treated", credentialed=False, preprocessing=self.preprocessing
        )
        position = stays.stays.stay_id - FIRST_STAY
        risk, last = mortality[position], stays.n_decisions - 1
        # how a stay ends is worth what it is worth on average
        sofa, lactate = np.zeros(2, np.int8), np.zeros(2)
        over, died = np.ones(2, bool), np.array([True, False])
        worst, best = step_reward(sofa, sofa, lactate, lactate, over, died, self.reward)
        paid = stays.padded(stays.reward)
        paid[np.arange(len(last)), last] = risk * worst + (1 - risk) * best
        reward[position, : paid.shape[1]] = paid
        mask[position, : paid.shape[1]] = stays.mask
        return reward, mask


class _Record:
    """What is written of n courses while they go on."""

    courses: Courses

    def __init__(self, preprocessing: Preprocessing, seed: int) -> None:
        self.pressure: list[Column] = []
        """[T][n] true mean arterial pressure at the start of each hour, mmHg."""
        self._preprocessing = preprocessing
        self._seed = seed
        self._state: Patients | None = None

    def watching(self, policy: Policy) -> Policy:
        """The policy, while the true pressure is noted."""

        def noting(
            ward: Ward, hour: int, rng: np.random.Generator
        ) -> tuple[Column, Column, Column]:
            self.pressure.append(ward.body.pressure.copy())
            return policy(ward, hour, rng)

        return noting

    def add(self, segment: Courses, begin: int) -> None:
        """Writes the hours from ``begin`` on; the first end of each patient holds."""
        if begin == 0:
            self.courses = _blank(segment)
        whole = self.courses
        for name in RECORDED:
            hours: NDArray[Any] = getattr(segment, name)
            getattr(whole, name)[begin : begin + len(hours)] = hours
        here = whole.end == End.HORIZON
        over = here & (segment.end != End.HORIZON)
        whole.end[over], whole.end_hour[over] = segment.end[over], segment.end_hour[over]
        whole.late_risk[here] = segment.late_risk[here]

    def state(self) -> Patients:
        """The n patients as the record now shows them, those who are gone included."""
        n, before = len(self.courses.end), self._state
        # nobody is gone in this copy, so that everybody has all bins
        everybody = replace(
            self.courses,
            end=np.full(n, End.HORIZON, np.int8),
            end_hour=np.full(n, RECORDED_HOURS, np.float32),
        )
        step = 0 if before is None else int(before.step[0]) + 1
        hours = self._preprocessing.step_hours
        raw = raw_cohort([everybody], step_hours=hours, seed=self._seed)
        now = raw.offsets[:-1] + step
        if before is None:
            values, age = self._preprocessing.first(raw.raw[now])
        else:
            values, age = self._preprocessing.carry_forward(before.values, before.age, raw.raw[now])
        static = [raw.stays[name] for name in ("age", "male", "charlson")]
        self._state = Patients(
            values=values,
            age=age,
            ventilated=raw.ventilated[now],
            static=np.stack(static, axis=1).astype(np.float32),
            previous_fluid_ml=raw.fluid_ml[now],
            previous_norepinephrine_equivalent=raw.norepinephrine_equivalent[now],
            step=np.full(n, step, np.int64),
            memory=np.zeros((n, 0), np.float32),
        )
        return self._state


def _blank(segment: Courses) -> Courses:
    """Courses of all hours, of which nothing is written yet."""
    n = len(segment.end)
    rows: dict[str, Any] = {}
    for name in RECORDED:
        first: NDArray[Any] = getattr(segment, name)
        rows[name] = np.zeros((RECORDED_HOURS, *first.shape[1:]), first.dtype)
    return replace(
        segment,
        **rows,
        end=np.full(n, End.HORIZON, np.int8),
        end_hour=np.full(n, RECORDED_HOURS, np.float32),
        late_risk=np.zeros(n, np.float32),
    )
