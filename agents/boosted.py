"""Behaviour cloning by boosted trees: how clinicians are told most sharply from one state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.clinician import Imitation, action_frequencies, decisions
from agents.policy import TrainedPolicy, softmax, training_provenance
from sepsis_gym.actions import N_ACTIONS, N_LEVELS, decode_action
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import OBSERVATION_SIZE, tree_inputs
from sepsis_gym.trajectories import Trajectories

_AT_ONCE = 4096
_LEAF = -1
_NEVER = -1e9
"""Score of a level that no clinician of the training split gave."""


@dataclass(frozen=True)
class BoostedClinicianConfig:
    """How the clinicians are imitated.

    Attributes:
        trees: Rounds of boosting, each with a tree to a level.
        leaves: Most leaves of a tree.
        decisions_per_leaf: Fewest.
        learning_rate: Share of each round's trees that is added.
        l2: Weight penalty of the leaves.
        marginal_share: Share of the overall action frequencies mixed into every prediction, so
            that no action is ever impossible.
    """

    trees: int = 60
    leaves: int = 8
    decisions_per_leaf: int = 30
    learning_rate: float = 0.1
    l2: float = 10.0
    marginal_share: float = 0.02

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if min(self.trees, self.leaves - 1, self.decisions_per_leaf, self.learning_rate) <= 0:
            raise ConfigError(
                "trees, decisions_per_leaf and learning_rate must be positive, leaves 2 or more"
            )
        if self.l2 < 0 or not 0 < self.marginal_share < 1:
            raise ConfigError("l2 must be zero or more, marginal_share between 0 and 1")


@dataclass(frozen=True)
class Trees:
    """Boosted trees that score the five levels of a drug.

    Attributes:
        feature: [k, nodes] input that a node asks about, -1 at a leaf.
        threshold: [k, nodes] above which one goes on to the right.
        left: [k, nodes] where to go on else.
        right: [k, nodes].
        value: [k, nodes] what a leaf adds.
        level: [k] to the score of which level.
        start: [5] scores before any tree.
    """

    feature: NDArray[np.int64]
    threshold: NDArray[np.float64]
    left: NDArray[np.int64]
    right: NDArray[np.int64]
    value: NDArray[np.float64]
    level: NDArray[np.int64]
    start: NDArray[np.float64]

    def __call__(self, inputs: NDArray[np.floating]) -> NDArray[np.float64]:
        """Probabilities [n, 5] of the levels, given inputs [n, k]."""
        tree, row = np.arange(len(self.level)), np.arange(len(inputs))[:, None]
        node = np.zeros((len(inputs), len(tree)), np.int64)
        while (inner := self.feature[tree, node] != _LEAF).any():
            asked = inputs[row, np.where(inner, self.feature[tree, node], 0)]
            on = np.where(
                asked <= self.threshold[tree, node], self.left[tree, node], self.right[tree, node]
            )
            node = np.where(inner, on, node)
        reached = self.value[tree, node]
        scores = np.tile(self.start, (len(inputs), 1))
        for level in range(N_LEVELS):
            scores[:, level] += reached[:, self.level == level].sum(1)
        return softmax(scores)

    @classmethod
    def fit(
        cls, inputs: NDArray[np.floating], level: NDArray[np.int64], config: BoostedClinicianConfig,
        seed: int,
    ) -> Self:  # fmt: skip
        """Learns who is given which level."""
        from sklearn.ensemble import HistGradientBoostingClassifier  # a second of import time

        seen, start = np.unique(level), np.full(N_LEVELS, _NEVER)
        if len(seen) == 1:
            start[seen] = 0
            return cls._laid_out([], np.zeros(0, np.int64), start)
        model = HistGradientBoostingClassifier(
            max_iter=config.trees,
            max_leaf_nodes=config.leaves,
            min_samples_leaf=config.decisions_per_leaf,
            learning_rate=config.learning_rate,
            l2_regularization=config.l2,
            early_stopping=False,  # it would hold out decisions at random, of the same stays
            random_state=seed,
        ).fit(inputs, level)
        scored = seen[-1:] if len(seen) == 2 else seen  # of two, one is scored against the other
        start[seen] = 0
        start[scored] = model._baseline_prediction.ravel()
        nodes = [tree.nodes for trees in model._predictors for tree in trees]
        return cls._laid_out(nodes, np.tile(scored, len(model._predictors)), start)

    @classmethod
    def _laid_out(
        cls, nodes: list[NDArray[Any]], level: NDArray[np.int64], start: NDArray[np.float64]
    ) -> Self:
        shape = (len(nodes), max((len(each) for each in nodes), default=1))
        feature, left, right = np.full(shape, _LEAF), np.zeros(shape, int), np.zeros(shape, int)
        threshold, value = np.zeros(shape), np.zeros(shape)
        for k, each in enumerate(nodes):
            feature[k, : len(each)] = np.where(each["is_leaf"], _LEAF, each["feature_idx"])
            threshold[k, : len(each)] = each["num_threshold"]
            left[k, : len(each)], right[k, : len(each)] = each["left"], each["right"]
            value[k, : len(each)] = each["value"]
        return cls(feature, threshold, left, right, value, level.astype(np.int64), start)

    def to_weights(self, name: str) -> dict[str, NDArray[Any]]:
        """The trees as named arrays."""
        return {f"{name}.{part}": array for part, array in vars(self).items()}

    @classmethod
    def from_weights(cls, weights: Mapping[str, NDArray[Any]], name: str, inputs: int) -> Self:
        """Inverse of :meth:`to_weights`, for so many inputs.

        Raises:
            ConfigError: There are no such trees, or they lead nowhere.
        """
        parts = {}
        for part in cls.__dataclass_fields__:
            if f"{name}.{part}" not in weights:
                raise ConfigError(f"{name}.{part} is missing")
            parts[part] = weights[f"{name}.{part}"]
        trees = cls(**parts)
        k, nodes = trees.feature.shape
        sound = trees.level.shape == (k,) and trees.start.shape == (N_LEVELS,)
        sound &= all(x.shape == (k, nodes) for x in list(parts.values())[1:5])
        sound &= all(np.isfinite(x).all() for x in (trees.threshold, trees.value, trees.start))
        if not sound or not np.isin(trees.feature, np.arange(_LEAF, inputs)).all():
            raise ConfigError(f"{name} holds no trees over {inputs} inputs")
        at = np.arange(nodes)
        for way in (trees.left, trees.right):  # only ever on, so that every path ends
            if ((trees.feature != _LEAF) & ((way <= at) | (way >= nodes))).any():
                raise ConfigError(f"{name} holds a tree that leads back")
        return trees


class BoostedClinicianAgent(Imitation, TrainedPolicy):
    """The clinicians' own policy by the present state: the vasopressor, then the fluid given it."""

    config: BoostedClinicianConfig
    config_type: ClassVar[type] = BoostedClinicianConfig

    def _build(self) -> None:
        inputs = tree_inputs(np.zeros((1, OBSERVATION_SIZE), np.float32)).shape[1]
        self._vasopressor = Trees.from_weights(self.weights, "vasopressor", inputs)
        self._fluid = Trees.from_weights(self.weights, "fluid", inputs + 1)
        super()._build()

    @classmethod
    def train(
        cls, trajectories: Trajectories, config: BoostedClinicianConfig, *, seed: int = 0
    ) -> Self:
        """Fits the training split.

        Raises:
            UnknownNameError: The cohort lacks the train or the validation split.
        """
        observations, actions = decisions(trajectories, "train")
        inputs = tree_inputs(observations)
        fluid, vasopressor = decode_action(actions)
        first = Trees.fit(inputs, vasopressor, config, seed)
        then = Trees.fit(np.column_stack([inputs, vasopressor]), fluid, config, seed)
        weights = {**first.to_weights("vasopressor"), **then.to_weights("fluid")}
        weights["marginal"] = action_frequencies(actions)
        provenance = training_provenance(trajectories, seed)
        agent = cls(config, weights, trajectories.preprocessing, provenance)
        held_out, given = decisions(trajectories, "validation")
        told = agent.batch_probabilities(held_out)[np.arange(len(given)), given]
        provenance["validation_log_loss"] = float(-np.log(told).mean())
        return agent

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Action probabilities [n, 25] of observations [n, 107]."""
        pieces = np.split(observations, range(_AT_ONCE, len(observations), _AT_ONCE))
        told = np.concatenate([self._chosen(tree_inputs(piece)) for piece in pieces])
        return self._never_impossible(told)

    def _chosen(self, inputs: NDArray[np.float64]) -> NDArray[np.float64]:
        first = self._vasopressor(inputs)
        then = np.empty((len(inputs), N_LEVELS, N_LEVELS))  # fluid, vasopressor: as actions count
        for level in range(N_LEVELS):
            given = np.column_stack([inputs, np.full(len(inputs), level)])
            then[:, :, level] = first[:, [level]] * self._fluid(given)
        return then.reshape(-1, N_ACTIONS)
