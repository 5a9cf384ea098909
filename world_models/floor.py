"""The best that anybody could predict of simulated patients: the truth but for its luck.

Whoever knew the whole true state at a decision, the doses of the coming hours and the hours at
which something is charted would still not know the luck: what drifts, what happens, how the
instruments err. The floor is the mean over re-simulations from that state; no model that sees a
chart can reach it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sepsis_gym.dynamics import End
from sepsis_gym.errors import SupportError
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES
from sepsis_gym.preprocessing import HORIZON_HOURS
from sepsis_gym.trajectories import Trajectories
from world_models.forecast import OPEN_LOOP_STEPS, Floats, Predictions
from world_models.physiology.beds import Beds, HourlyLuck, follow
from world_models.physiology.binning import bin_collected
from world_models.physiology.clinician import ClinicianConfig
from world_models.physiology.courses import Courses, Streams, Ward, admit, clinicians, run
from world_models.physiology.effects import truth_is_known
from world_models.physiology.records.blocks import BLOCK_SIZE, RECORDED_HOURS, block_streams
from world_models.physiology.records.stays import stay_ids

_URINE = FEATURE_INDEX["output_4hourly"]
_ROWS = 8_192  # copies of patients at a time, so that memory stays flat
_DAY_ONE_HOUR = 24


def floor(
    log: Trajectories, *, errors_known: bool = True, draws: int = 32, seed: int = 0
) -> Predictions:
    """Re-simulates stays from their true states and predicts the mean, in the log's scales.

    The logged hourly doses are given again and readings are taken at the hours at which they were
    charted (at every hour of a bin whose value came by another way, as from a device). What the
    record adds to a reading (a cuff beside the line, a lost digit) is left out. Copies whose stay
    has ended are not counted, since the logged one went on. 90-day mortality is said of the
    decision at 24 h only: there the clinicians go on by themselves, and their patients' risk is
    averaged.

    Args:
        log: Stays of a cohort made by ``sepsis-gym cohort synthetic``, or some of them, causally
            aligned.
        errors_known: Whether the present errors of the instruments are known too, which persist
            for hours; else only their stationary spread is, and all that is known is the patient.
        draws: Re-simulations of each state.
        seed: Of their luck.

    Raises:
        SupportError: The stays are not of simulated patients.
    """
    if not truth_is_known(log):
        raise SupportError(
            f"{log.manifest.source}: no floor without the truth, which only a cohort of "
            "sepsis-gym cohort synthetic has"
        )
    copies = _Copies(draws, errors_known, np.random.default_rng(seed))
    said = {name: np.full(shape, np.nan, np.float32) for name, shape in _shapes(log).items()}
    made = log.manifest.config["synthetic"]
    n_blocks = -(-made["patients"] // BLOCK_SIZE)
    for block in tqdm(_blocks(log), total=n_blocks, desc="floor", disable=None):
        _fill_one_step(said, log, block, copies)
        _fill_open_loop(said, log, block, copies)
        _fill_mortality(said, log, block, copies)
    _fill_unread(said, log)
    return Predictions.of(len(said["mean"]), said)


def _shapes(log: Trajectories) -> dict[str, tuple[int, ...]]:
    n = int(log.is_decision.sum())
    flat, wide = (n,), (n, N_FEATURES)
    named = {"mean": wide, "scale": wide, "open_loop": wide}
    return named | {"ventilated": flat, "mortality_90d": flat}


@dataclass(frozen=True)
class _Copies:
    """How states are simulated again: how often, whether instruments keep their errors, by whom."""

    draws: int
    errors_known: bool
    rng: np.random.Generator


@dataclass
class _Block:
    """The stays of a log that were simulated together, m of them.

    Attributes:
        stay: [m] their positions in the log.
        bed: [m] their places in the block.
        states: [B, n, columns] beds as each bin begins.
        uncharted_ml: [B, n] urine since it was last charted, as each bin begins.
        day_one: Everybody at 24 h.
        clinician: Who treats them.
        courses: One for each bin, of all n.
    """

    stay: NDArray[np.intp]
    bed: NDArray[np.intp]
    states: Floats
    uncharted_ml: Floats
    day_one: Ward
    clinician: ClinicianConfig
    courses: list[Courses]

    def logged(self, name: str, since: int, hours: int) -> NDArray[Any]:
        """[hours, n, ...] what was recorded from an hour on."""
        step = len(self.courses[0].dose)
        bins = self.courses[since // step : (since + hours) // step]
        return np.concatenate([getattr(course, name) for course in bins])


def _blocks(log: Trajectories) -> Iterator[_Block]:
    """Simulates the cohort again, keeping the true states as each bin begins."""
    made, step = log.manifest.config["synthetic"], log.preprocessing.step_hours
    clinician = ClinicianConfig(**made["clinician"])
    for block, first in enumerate(range(0, made["patients"], BLOCK_SIZE)):
        n = min(BLOCK_SIZE, made["patients"] - first)
        _, stay, bed = np.intersect1d(log.stays.stay_id, stay_ids(first, n), return_indices=True)
        if not len(stay):
            continue
        streams, policy = block_streams(made["seed"], block), clinicians(clinician)
        ward = admit(n, streams, clinician)
        states, uncharted, courses = [], [], []
        day_one = ward
        for hour in range(0, RECORDED_HOURS // step * step, step):
            states.append(Beds(ward.people, ward.body, ward.instruments).pack())
            uncharted.append(ward.uncharted_ml.copy())
            if hour == _DAY_ONE_HOUR:
                day_one = ward.take(np.arange(n))
            courses.append(run(ward, policy, step, streams, begin=hour))
        yield _Block(stay, bed, np.stack(states), np.stack(uncharted), day_one, clinician, courses)


def _fill_one_step(
    said: dict[str, Floats], log: Trajectories, block: _Block, copies: _Copies
) -> None:
    step = log.preprocessing.step_hours
    rows = np.cumsum(log.is_decision) - 1
    for t in range(int(log.n_decisions.max())):
        here = log.n_decisions[block.stay] > t
        stay, bed = block.stay[here], block.bed[here]
        if len(stay):
            seen = _foreseen(log, block, bed, (t + 1) * step, step, copies)
            at = rows[log.offsets[stay] + t]
            said["mean"][at], said["scale"][at] = seen.mean[0], seen.scale[0]
            said["ventilated"][at] = seen.ventilated[0]


def _fill_open_loop(
    said: dict[str, Floats], log: Trajectories, block: _Block, copies: _Copies
) -> None:
    step = log.preprocessing.step_hours
    steps = min(OPEN_LOOP_STEPS, HORIZON_HOURS // step)
    seen = _foreseen(log, block, block.bed, step, steps * step, copies)
    rows = np.cumsum(log.is_decision) - 1
    for t in range(steps):
        here = log.n_decisions[block.stay] > t
        said["open_loop"][rows[log.offsets[block.stay[here]] + t]] = seen.mean[t, here]


def _fill_mortality(
    said: dict[str, Floats], log: Trajectories, block: _Block, copies: _Copies
) -> None:
    """The risk of those at 24 h, whatever the clinicians then do."""
    t = _DAY_ONE_HOUR // log.preprocessing.step_hours - 1
    here = log.n_decisions[block.stay] > t
    stay, bed = block.stay[here], block.bed[here]
    if not len(stay):
        return
    ward = block.day_one.take(np.repeat(bed, copies.draws))
    streams, hours = Streams(*[copies.rng] * 5), RECORDED_HOURS - _DAY_ONE_HOUR
    course = run(
        ward, clinicians(block.clinician), hours, streams, record=False, begin=_DAY_ONE_HOUR
    )
    rows = np.cumsum(log.is_decision) - 1
    risk = course.risk.reshape(-1, copies.draws).mean(1)
    said["mortality_90d"][rows[log.offsets[stay] + t]] = risk


@dataclass
class _Foreseen:
    """Means over re-simulations of m patients, B bins each.

    Attributes:
        mean: [B, m, 39] values, z units; NaN where none of them can be read.
        scale: [B, m, 39] their standard deviation.
        ventilated: [B, m] share with a tube.
    """

    mean: Floats
    scale: Floats
    ventilated: Floats


def _foreseen(
    log: Trajectories,
    block: _Block,
    bed: NDArray[np.intp],
    since: int,
    hours: int,
    copies: _Copies,
) -> _Foreseen:
    """Goes on from the true states of these beds, a chunk of patients at a time."""
    chunk = max(1, _ROWS // copies.draws)
    cuts = range(chunk, len(bed), chunk)
    parts = [_resimulated(log, block, some, since, hours, copies) for some in np.split(bed, cuts)]
    return _Foreseen(
        *(
            np.concatenate([getattr(part, name) for part in parts], axis=1)
            for name in ("mean", "scale", "ventilated")
        )
    )


def _resimulated(
    log: Trajectories,
    block: _Block,
    bed: NDArray[np.intp],
    since: int,
    hours: int,
    copies: _Copies,
) -> _Foreseen:
    step, draws, rng = log.preprocessing.step_hours, copies.draws, copies.rng
    each, bins = np.repeat(bed, draws), hours // step
    fluid = block.logged("bolus_l", since, hours) + block.logged("carrier_l_h", since, hours)
    dose, charted = block.logged("dose", since, hours), block.logged("charted", since, hours)
    beds = Beds.unpack(block.states[since // step][each])
    if not copies.errors_known:
        shape = beds.instruments.error.shape
        beds.instruments.error = rng.standard_normal(shape, np.float32)
    uncharted = block.uncharted_ml[since // step][each]
    here = np.ones(len(each), bool)
    readings = np.empty((hours, len(each), N_FEATURES), np.float32)
    ventilated, ongoing = np.empty((2, bins, len(each)), bool)
    for hour in range(hours):
        now = np.full(len(each), since + hour, np.float32)
        luck = HourlyLuck.draw(1, len(each), rng)
        tube = beds.body.ventilated > 0
        seen = follow(beds, now, 1, fluid[hour][each], dose[hour][each], luck)
        readings[hour] = seen.readings[0]
        uncharted = uncharted + readings[hour, :, _URINE] / 4
        readings[hour, :, _URINE] = 4 * uncharted
        uncharted = np.where(charted[hour][each, _URINE], 0, uncharted)
        here &= seen.end == End.ONGOING
        at = hour // step
        ventilated[at] = tube if hour % step == 0 else ventilated[at] | tube
        ongoing[at] = here
    values = _binned(readings, np.repeat(charted[:, bed], draws, axis=1), step)
    z = log.preprocessing.standardize(values).reshape(bins, len(bed), draws, N_FEATURES)
    kept = ongoing.reshape(bins, len(bed), draws)
    kept = kept | ~kept.any(-1, keepdims=True)  # nobody went on: then everybody counts
    known = kept[..., None] & ~np.isnan(z)
    count = known.sum(2)
    mean = np.where(known, z, 0).sum(2) / np.where(count > 0, count, np.nan)
    spread = np.where(known, (z - mean[:, :, None]) ** 2, 0).sum(2) / np.maximum(count - 1, 1)
    tubes = (ventilated.reshape(kept.shape) & kept).sum(-1) / kept.sum(-1)
    return _Foreseen(mean, np.sqrt(spread), tubes)


def _binned(readings: Floats, charted: NDArray[np.bool_], step: int) -> NDArray[np.float32]:
    """[B, n, 39] means of the charted hours, of all hours where none was."""
    raw = bin_collected(readings, charted & ~np.isnan(readings), step)
    every = bin_collected(readings, ~np.isnan(readings), step)
    return np.where(np.isnan(raw), every, raw)


def _fill_unread(said: dict[str, Floats], log: Trajectories) -> None:
    """Where no copy can be read, as a verbal response with a tube, the last value stands."""
    z = log.preprocessing.standardize(log.values)[log.is_decision]
    said["mean"][:] = np.where(np.isnan(said["mean"]), z, said["mean"])
    early = (log.step[log.is_decision] < OPEN_LOOP_STEPS)[:, None]
    first = log.preprocessing.standardize(log.values[log.offsets[:-1]])
    first = first[log.stay_of_row[log.is_decision]]
    unread = early & np.isnan(said["open_loop"])
    said["open_loop"][:] = np.where(unread, first, said["open_loop"])
