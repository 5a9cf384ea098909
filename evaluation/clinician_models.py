"""Families of models that say how likely clinicians were to choose each action."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evaluation.ratio_of_sums import Floats
from sepsis_gym.actions import N_ACTIONS, N_LEVELS, decode_action
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import OBSERVATION_SLICES, tree_inputs
from sepsis_gym.trajectories import Trajectories

_TREES, _LEAVES = 60, 8
_NEIGHBORS = 60
_NEAR_BY = ("meanbp", "lactate", "output_4hourly")
_LEVEL_WEIGHT, _MARGINAL_SHARE = 2.0, 0.1
_UNITS, _EPOCHS, _STAYS_PER_UPDATE = 64, 20, 64
_LARGEST_Z = 5.0


@dataclass(frozen=True)
class Decisions:
    """The n logged decisions of some stays, each stay's in order.

    Attributes:
        observation: [n, 107] what an agent sees.
        action: [n] id of what was given.
        stay: [n] number of the stay, rising.
        subject: [n] patient.
    """

    observation: Floats
    action: NDArray[np.int64]
    stay: NDArray[np.int64]
    subject: NDArray[np.int64]

    @classmethod
    def of(cls, trajectories: Trajectories) -> "Decisions":
        """Those of a log."""
        rows = trajectories.is_decision
        stay = trajectories.stay_of_row[rows]
        return cls(
            trajectories.observations()[rows].astype(np.float64),
            trajectories.action[rows],
            stay,
            trajectories.stays.subject_id[stay],
        )

    def take(self, rows: NDArray[Any]) -> "Decisions":
        """Those at these rising positions, which must be whole stays."""
        chosen = (each[rows] for each in (self.observation, self.action, self.stay, self.subject))
        return Decisions(*chosen)


Predictor = Callable[[Decisions], Floats]
"""[n, 25] probabilities; each row adds up to 1. It does not look at the logged action."""


def fit_boosting(decisions: Decisions, seed: int) -> Predictor:
    """Shallow boosted trees: the vasopressor level, then the fluid level given it.

    Two factors of 5 levels fit better than 25 classes, and in a tenth of the time.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    new = partial(
        HistGradientBoostingClassifier,
        max_iter=_TREES,
        max_leaf_nodes=_LEAVES,
        min_samples_leaf=30,
        l2_regularization=10.0,
        early_stopping=False,  # it would hold out decisions at random, of the same stays
        random_state=seed,
    )
    fluid, vasopressor = decode_action(decisions.action)
    state = tree_inputs(decisions.observation)
    first = _fitted(new, state, vasopressor, N_LEVELS)
    then = _fitted(new, np.column_stack([state, vasopressor]), fluid, N_LEVELS)

    def predict(decisions: Decisions) -> Floats:
        state = tree_inputs(decisions.observation)
        chosen = first(state)
        parts = []
        for level in range(N_LEVELS):
            given = np.column_stack([state, np.full(len(state), level)])
            parts.append(chosen[:, [level]] * then(given))
        return np.stack(parts, axis=2).reshape(-1, N_ACTIONS)  # action = 5 * fluid + vasopressor

    return predict


def fit_neighbors(decisions: Decisions, seed: int) -> Predictor:
    """What clinicians did in the nearest states by last action, three features and time."""
    from sklearn.neighbors import KNeighborsClassifier

    near_by = [FEATURE_INDEX[name] for name in _NEAR_BY]

    def few(decisions: Decisions) -> Floats:
        observation = decisions.observation
        levels = _LEVEL_WEIGHT * _last_levels(observation)
        return np.column_stack([observation[:, near_by], levels, observation[:, -1]])

    neighbors = min(_NEIGHBORS, len(decisions.action))
    new = partial(KNeighborsClassifier, neighbors)
    predict = _fitted(new, few(decisions), decisions.action, N_ACTIONS)
    marginal = np.bincount(decisions.action, minlength=N_ACTIONS) / len(decisions.action)

    def predict_smooth(decisions: Decisions) -> Floats:  # none among few does not mean never
        return (1 - _MARGINAL_SHARE) * predict(few(decisions)) + _MARGINAL_SHARE * marginal

    return predict_smooth


def fit_logistic(decisions: Decisions, seed: int) -> Predictor:
    """Multinomial logistic regression on the whole observation, weakly penalised."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    scaled = _scaling(decisions.observation)
    new = partial(LogisticRegression, C=0.1, max_iter=200, tol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the held-out measures would tell
        predict = _fitted(new, scaled(decisions.observation), decisions.action, N_ACTIONS)
    return lambda decisions: predict(scaled(decisions.observation))


def fit_recurrent(decisions: Decisions, seed: int) -> Predictor:
    """A gated recurrent network over the stay so far: it can learn a clinician's habits.

    Raises:
        ImportError: torch is missing.
    """
    import torch
    from torch.nn import functional

    scaled = _scaling(decisions.observation)
    inputs = decisions.observation.shape[1]

    def padded(decisions: Decisions) -> tuple["torch.Tensor", NDArray[np.int64], NDArray[np.int64]]:
        """[stays, steps, 107] with the stay and step of each decision."""
        _, stay, length = np.unique(decisions.stay, return_inverse=True, return_counts=True)
        step = np.arange(len(stay)) - np.searchsorted(decisions.stay, decisions.stay)
        table = np.zeros((len(length), length.max(), inputs), np.float32)
        table[stay, step] = scaled(decisions.observation).clip(-_LARGEST_Z, _LARGEST_Z)
        return torch.from_numpy(table), stay, step

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        memory = torch.nn.GRU(inputs, _UNITS, batch_first=True)
        head = torch.nn.Linear(_UNITS + inputs, N_ACTIONS)

        def logits(table: "torch.Tensor", dropout: float) -> "torch.Tensor":
            remembered = functional.dropout(memory(table)[0], dropout)
            return head(torch.cat([remembered, table], dim=-1))

        table, stay, step = padded(decisions)
        target = torch.full(table.shape[:2], -100)
        target[stay, step] = torch.from_numpy(decisions.action)
        weights = [*memory.parameters(), *head.parameters()]
        updates = _EPOCHS * -(-len(table) // _STAYS_PER_UPDATE)
        optimizer = torch.optim.AdamW(weights, weight_decay=0.01)
        rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=updates)
        for _ in range(_EPOCHS):
            for batch in torch.split(torch.randperm(len(table)), _STAYS_PER_UPDATE):
                scores = logits(table[batch], 0.2).flatten(0, 1)
                optimizer.zero_grad()
                loss = functional.cross_entropy(scores, target[batch].flatten())
                torch.autograd.backward(loss)
                optimizer.step()
                rate.step()

    def predict(decisions: Decisions) -> Floats:
        table, stay, step = padded(decisions)
        with torch.no_grad():
            return logits(table, 0.0).double().softmax(-1).numpy()[stay, step]

    return predict


FAMILIES: Mapping[str, Callable[[Decisions, int], Predictor]] = MappingProxyType(
    {
        "boosting": fit_boosting,
        "neighbors": fit_neighbors,
        "logistic": fit_logistic,
        "recurrent": fit_recurrent,
    }
)
READS_THE_PAST = frozenset({"recurrent"})
"""The others read one observation, as most agents do."""


def _fitted(
    new: Callable[[], Any], inputs: Floats, label: NDArray[np.int64], n: int
) -> Callable[[Floats], Floats]:
    """A scikit-learn classifier's probabilities over all ``n`` labels, seen or not."""
    seen = np.unique(label)
    model = new().fit(inputs, label) if len(seen) > 1 else None

    def predict(inputs: Floats) -> Floats:
        whole = np.zeros((len(inputs), n))
        whole[:, seen] = 1.0 if model is None else model.predict_proba(inputs)
        return whole

    return predict


def _scaling(observation: Floats) -> Callable[[Floats], Floats]:
    mean, spread = observation.mean(0), observation.std(0)
    spread = np.where(spread > 0, spread, 1.0)
    return lambda other: (other - mean) / spread


def _last_levels(observation: Floats) -> Floats:
    """[n, 2] fluid and vasopressor level of the last action."""
    last = observation[:, OBSERVATION_SLICES["previous_action"]].argmax(1)
    return np.stack(decode_action(last), axis=1).astype(np.float64)
