"""From raw per-bin tables, whatever their source, to Trajectories: one path for all cohorts."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.actions import ActionBins
from sepsis_gym.errors import ConfigError, EmptyCohortError
from sepsis_gym.preprocessing import STEP_HOURS, Alignment, Preprocessing
from sepsis_gym.reward import RewardConfig, transition_reward
from sepsis_gym.sofa import state_sofa
from sepsis_gym.trajectories import Manifest, Split, StayTable, Trajectories


@dataclass(frozen=True)
class AssemblyConfig:
    """How per-bin tables become trajectories.

    Attributes:
        step_hours: Length of a decision step, 1, 2, 4 or 8 h.
        alignment: ``causal`` (the action of a state is what was given in the next bin) or
            ``same_window`` (state and action of one bin: the literature's habit, which leaks).
        validation_share: Share of patients in the validation split.
        test_share: Share of patients in the test split.
        split_seed: Changes which patients land in which split.
        scale_on: Means and deviations of ``measured`` values, or of ``imputed`` ones as published
            extracts take them, which narrows rarely measured features.
        reward: The reward.
    """

    step_hours: int = 4
    alignment: Alignment = "causal"
    validation_share: float = 0.1
    test_share: float = 0.2
    split_seed: int = 0
    scale_on: Literal["measured", "imputed"] = "measured"
    reward: RewardConfig = field(default_factory=RewardConfig)

    def __post_init__(self) -> None:
        """Checks the clock and that a training split is left."""
        if self.step_hours not in STEP_HOURS:
            raise ConfigError(f"step_hours must be 1, 2, 4 or 8, got {self.step_hours}")
        if self.scale_on not in ("measured", "imputed"):
            raise ConfigError(f"scale_on must be measured or imputed, got {self.scale_on!r}")
        shares = (self.validation_share, self.test_share)
        if not (min(shares) >= 0 and sum(shares) < 1):  # also refuses NaN
            raise ConfigError("validation_share and test_share must leave room for training")


@dataclass(frozen=True)
class RawCohort:
    """Per-bin tables; bin b of a stay covers [b, b + 1) steps from ICU admission.

    Attributes:
        stays: [N] per-stay columns of :class:`StayTable` except ``split``; those of which it says
            "if not built" may be left out.
        offsets: [N + 1] first row of each stay; two bins or more each, 72 h plus one at most.
        raw: [R, 39] measurements aggregated over the bin, NaN where none.
        ventilated: [R] invasive ventilation in the bin.
        fluid_ml: [R] fluid given in the bin, mL.
        norepinephrine_equivalent: [R] highest summed vasopressor rate in the bin, ug/kg/min.
        sofa_24h: [R] worst hourly SOFA of the 24 h up to the bin's end; NaN if not built.
        norepinephrine_equivalent_mean: [R] the vasopressor rate's time-weighted mean.
        verbal_untestable: [R] whether a verbal response was charted as untestable.
        before: [N, 39] last measurements from before the first bin, NaN where none.
        before_age: [N, 39] how many bins before the first one those were made.
    """

    stays: Mapping[str, NDArray[Any]]
    offsets: NDArray[np.int64]
    raw: NDArray[np.float32]
    ventilated: NDArray[np.bool_]
    fluid_ml: NDArray[np.float32]
    norepinephrine_equivalent: NDArray[np.float32]
    sofa_24h: NDArray[np.float32]
    norepinephrine_equivalent_mean: NDArray[np.float32] | None = None
    verbal_untestable: NDArray[np.bool_] | None = None
    before: NDArray[np.float32] | None = None
    before_age: NDArray[np.int16] | None = None


def split_of(subject_id: NDArray[np.integer], config: AssemblyConfig) -> NDArray[np.str_]:
    """Assigns patients to splits by a hash of their id: stable when others come or go.

    Args:
        subject_id: [N] patients.
        config: Shares and seed.

    Returns:
        [N] split names.
    """
    names: list[Split] = []
    for subject in subject_id.tolist():
        digest = hashlib.sha256(f"{config.split_seed}:{subject}".encode()).digest()
        position = int.from_bytes(digest[:8], "big") / 2**64
        if position < config.test_share:
            names.append("test")
        elif position < config.test_share + config.validation_share:
            names.append("validation")
        else:
            names.append("train")
    return np.array(names, np.str_)


def assemble(
    cohort: RawCohort,
    config: AssemblyConfig,
    *,
    source: str,
    credentialed: bool,
    preprocessing: Preprocessing | None = None,
    build: dict[str, Any] | None = None,
    flow: tuple[tuple[str, int], ...] = (),
    notes: dict[str, int] | None = None,
) -> Trajectories:
    """Splits, cuts actions, carries values forward and pays rewards.

    Args:
        cohort: Per-bin tables.
        config: How to pair and split them.
        source: Name and version of the data source.
        credentialed: Whether rows may not be shared with third parties.
        preprocessing: Scales and dose levels; fitted on the training split if not given.
        build: The source's own settings, for the manifest.
        flow: Cohort flow so far.
        notes: Counts of what the source dropped or repaired.

    Raises:
        EmptyCohortError: There is no stay, or none to fit on in the training split.
    """
    if not len(cohort.stays["stay_id"]):
        raise EmptyCohortError("no stay is left after the inclusion rules; see the cohort flow")
    stays = _stay_table(cohort, config)
    lengths = np.diff(cohort.offsets)
    stay_of_row = np.repeat(np.arange(len(stays)), lengths)
    train = stays.split == "train"
    if preprocessing is None and not train.any():
        raise EmptyCohortError(
            f"none of the {len(stays)} stays falls into the training split; "
            "use more patients or another split_seed"
        )
    decision = np.ones(len(stay_of_row), bool)
    decision[cohort.offsets[1:] - 1] = False
    previous, given, given_mean = _align_doses(cohort, decision, config)
    in_train = train[stay_of_row]
    if preprocessing is None:
        preprocessing = _fit(cohort, stays.static[train], given, in_train, decision, config)
    values, age = _carry_forward(cohort, preprocessing)
    if config.scale_on == "imputed":
        preprocessing = preprocessing.rescaled(values[in_train])
    terminated = np.zeros(len(decision), bool)
    terminated[cohort.offsets[1:] - 2] = True
    untestable = cohort.verbal_untestable
    action = preprocessing.action_bins.action(*(np.where(decision, dose, 0.0) for dose in given))
    trajectories = Trajectories(
        stays=stays,
        offsets=cohort.offsets,
        values=values,
        age=age,
        verbal_untestable=np.zeros(len(decision), bool) if untestable is None else untestable,
        ventilated=cohort.ventilated,
        previous_fluid_ml=previous[0],
        previous_norepinephrine_equivalent=previous[1],
        fluid_ml=given[0],
        norepinephrine_equivalent=given[1],
        norepinephrine_equivalent_mean=given_mean,
        action=np.where(decision, action, -1),
        reward=np.full(len(decision), np.nan),
        terminated=terminated,
        sofa=state_sofa(values, preprocessing.known(age), cohort.ventilated, previous[1]),
        sofa_24h=cohort.sofa_24h,
        manifest=Manifest(
            source=source,
            credentialed=credentialed,
            preprocessing=preprocessing,
            config={**asdict(config), **(build or {})},
            flow=flow,
            notes=notes or {},
        ),
    )
    trajectories = _pay(trajectories, config.reward)
    trajectories.validate()
    return trajectories


def _stay_table(cohort: RawCohort, config: AssemblyConfig) -> StayTable:
    optional = ("weight_kg", "suspected_hours", "sofa_2_hours")
    not_built = np.full(len(cohort.stays["stay_id"]), np.nan, np.float32)
    columns = {name: not_built.copy() for name in optional} | dict(cohort.stays)
    return StayTable(split=split_of(cohort.stays["subject_id"], config), **columns)


def _fit(
    cohort: RawCohort,
    static: NDArray[np.float32],
    given: "_Doses",
    in_train: NDArray[np.bool_],
    decision: NDArray[np.bool_],
    config: AssemblyConfig,
) -> Preprocessing:
    """Fill values, scales and dose levels, from the training split's rows alone."""
    action_bins = ActionBins.fit(
        *(dose[in_train & decision] for dose in given),
        source=f"training-split quartiles, {config.step_hours}-h steps",
    )
    return Preprocessing.fit(
        cohort.raw[in_train],
        static,
        action_bins,
        step_hours=config.step_hours,
        alignment=config.alignment,
    )


def _pay(trajectories: Trajectories, config: RewardConfig) -> Trajectories:
    """The same trajectories with each decision's reward."""
    rows = np.flatnonzero(trajectories.is_decision)
    reward = np.full(len(trajectories.action), np.nan)
    reward[rows] = transition_reward(
        trajectories.patients(rows),
        trajectories.patients(rows + 1),
        trajectories.preprocessing,
        trajectories.terminated[rows],
        trajectories.stays.died_90d[trajectories.stay_of_row[rows]],
        config,
    )
    return replace(trajectories, reward=reward)


_Doses = tuple[NDArray[np.float32], NDArray[np.float32]]


def _align_doses(
    cohort: RawCohort, decision: NDArray[np.bool_], config: AssemblyConfig
) -> tuple[_Doses, _Doses, NDArray[np.float32]]:
    """Doses up to each state; doses of the action taken in it, and its mean vasopressor dose.

    The action's doses are NaN in final states.
    """
    in_bin = (cohort.fluid_ml, cohort.norepinephrine_equivalent)
    mean = cohort.norepinephrine_equivalent_mean
    doses = (*in_bin, np.full(len(decision), np.nan) if mean is None else mean)
    if config.alignment == "causal":
        previous = in_bin
        acted_in = np.minimum(np.arange(len(decision)) + 1, len(decision) - 1)
    else:
        first = np.zeros(len(decision), bool)
        first[cohort.offsets[:-1]] = True
        fluid, vasopressor = (np.where(first, 0.0, np.roll(dose, 1)) for dose in in_bin)
        previous = (fluid.astype(np.float32), vasopressor.astype(np.float32))
        acted_in = np.arange(len(decision))
    fluid, vasopressor, mean = (
        np.where(decision, dose[acted_in], np.nan).astype(np.float32) for dose in doses
    )
    return previous, (fluid, vasopressor), mean


def _carry_forward(
    cohort: RawCohort, preprocessing: Preprocessing
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Values and ages of all rows, step by step over all stays at once."""
    values = np.empty(cohort.raw.shape, np.float32)
    age = np.empty(cohort.raw.shape, np.int16)
    lengths = np.diff(cohort.offsets)
    for t in range(int(lengths.max())):
        rows = (cohort.offsets[:-1] + t)[lengths > t]
        if t == 0:
            values[rows], age[rows] = preprocessing.first(
                cohort.raw[rows], cohort.before, cohort.before_age
            )
        else:
            before = values[rows - 1], age[rows - 1]
            values[rows], age[rows] = preprocessing.carry_forward(*before, cohort.raw[rows])
    return values, age
