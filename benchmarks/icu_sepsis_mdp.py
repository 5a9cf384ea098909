"""The icu-sepsis MDP (Choudhary et al. 2024): exact values, logs with known behavior, tabular Q."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
N_ACTIONS = 25
DEATH, SURVIVAL, ENDED = 713, 714, 715
"""States that no action leaves but to the last."""
STEPS = 20
"""Where a log is cut; Q is indexed by the steps left."""


@dataclass(frozen=True)
class Log:
    """Stays; the reward is 1 for survival, undiscounted.

    Attributes:
        state: [N, T + 1] before each step and after the last.
        action: [N, T].
        reward: [N, T].
        mask: [N, T] whether there was a decision.
    """

    state: NDArray[np.int64]
    action: NDArray[np.int64]
    reward: Floats
    mask: NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of stays."""
        return len(self.state)

    def take(self, stays: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Self:
        """Some of the stays."""
        return type(self)(*(getattr(self, name)[stays] for name in self.__dataclass_fields__))

    def probability(self, policy: Floats) -> Floats:
        """[N, T] of the logged actions under a [S, 25] policy, 1 where there is none."""
        return np.where(self.mask, policy[self.state[:, :-1], self.action], 1.0)


class Mdp:
    """The dynamics, and what follows from them exactly."""

    def __init__(self, *, fatal: bool = False) -> None:
        """Loads the published dynamics.

        Args:
            fatal: Whether an action never seen in a state kills; else it does what the seen ones do
                on average, and all policies are worth about the same.
        """
        found = find_spec("icu_sepsis")  # not imported: that imports the unmaintained gym
        if found is None or found.origin is None:
            raise ImportError('the icu-sepsis MDP is missing: pip install "sepsis-gym[bench]"')
        assets = Path(found.origin).parent / "envs" / "assets"
        with np.load(assets / "dynamics.npz") as data:
            self.transition, self.first = data["tx_mat"], data["d_0"]
            self.expert = data["expert_policy"]
            reward = data["r_mat"]
        lines = (assets / "admissible_actions.txt").read_text().splitlines()
        self.admissible = np.zeros((ENDED + 1, N_ACTIONS), bool)
        for state, line in enumerate(lines[-(ENDED + 1) :]):
            self.admissible[state, list(map(int, line.split()))] = True
        self.admissible[DEATH:] = True
        if fatal:
            self.transition = np.where(
                self.admissible[..., None], self.transition, np.eye(ENDED + 1)[DEATH]
            )
        self.reward = (self.transition * reward).sum(-1)
        self.expert[DEATH:] = 1 / N_ACTIONS
        self._support = np.flatnonzero(self.transition.reshape(-1))
        row = self._support // (ENDED + 1)
        running = np.cumsum(self.transition.reshape(-1)[self._support])
        starts = np.searchsorted(row, np.arange(row[-1] + 1))
        before = np.concatenate([[0.0], running])[starts]
        # row r holds the numbers from r to r + 1, so that one search serves all rows
        self._cumulative = np.minimum(running - before[row], 1.0) + row

    def q(self, policy: Floats, steps: int = STEPS) -> Floats:
        """[steps + 1, S, 25] exact Q by the number of steps left."""
        q = np.zeros((steps + 1, *self.reward.shape))
        for left in range(1, steps + 1):
            v = (policy * q[left - 1]).sum(1)
            q[left] = self.reward + self.transition @ v
            q[left, DEATH:] = 0
        return q

    def value(self, policy: Floats) -> float:
        """Exact value within the horizon."""
        return float(self.first @ (policy * self.q(policy)[-1]).sum(1))

    def optimal_q(self, steps: int = STEPS) -> Floats:
        """[S, 25] of the best policy with so many steps left."""
        q = np.zeros_like(self.reward)
        for _ in range(steps):
            q = self.reward + self.transition @ q.max(1)
            q[DEATH:] = 0
        return q

    def simulate(self, policy: Floats, n: int, rng: np.random.Generator) -> Log:
        """Logs n stays."""
        state = np.full((n, STEPS + 1), ENDED)
        action, reward = np.zeros((n, STEPS), np.int64), np.zeros((n, STEPS))
        state[:, 0] = rng.choice(len(self.first), n, p=self.first)
        cumulative = policy.cumsum(1)
        for t in range(STEPS):
            here = np.flatnonzero(state[:, t] < DEATH)
            now, chance = state[here, t], rng.random((2, len(here)))
            drawn = chance[0, :, None] * cumulative[now, -1:]
            action[here, t] = (cumulative[now] > drawn).argmax(1)
            row = now * N_ACTIONS + action[here, t]
            place = np.searchsorted(self._cumulative, row + chance[1], side="right")
            place = np.minimum(place, len(self._support) - 1)
            state[here, t + 1] = self._support[place] % (ENDED + 1)
            reward[here, t] = state[here, t + 1] == SURVIVAL
        return Log(state, action, reward, state[:, :-1] < DEATH)


def counted_policy(log: Log, weight: float = 5.0) -> Floats:
    """[S, 25] behavior by counts, each state shrunk towards the overall frequencies.

    Args:
        log: Stays.
        weight: Decisions that the overall frequencies count for in every state.
    """
    cell = log.state[:, :-1][log.mask] * N_ACTIONS + log.action[log.mask]
    counts = np.bincount(cell, minlength=(ENDED + 1) * N_ACTIONS).reshape(-1, N_ACTIONS) * 1.0
    overall = (counts.sum(0) + 1) / (counts.sum() + N_ACTIONS)
    return (counts + weight * overall) / (counts.sum(1, keepdims=True) + weight)


def tabular_q(log: Log, policy: Floats, times: NDArray[np.integer] | None = None) -> Floats:
    """[T + 1, S, 25] fitted Q evaluation on counts, by the number of steps left.

    A cell is the mean of its targets and of one more: the mean of all, so that a cell never seen is
    worth what cells are worth.

    Args:
        log: Stays to fit on.
        policy: [S, 25] target.
        times: [N] how often each stay counts; once if not given.
    """
    weight = np.broadcast_to(1.0 if times is None else times[:, None], log.mask.shape)[log.mask]
    state, following = log.state[:, :-1][log.mask], log.state[:, 1:][log.mask]
    cell, reward = state * N_ACTIONS + log.action[log.mask], log.reward[log.mask]
    size = policy.size
    counts = np.bincount(cell, weight, size) + 1
    q = np.zeros((STEPS + 1, *policy.shape))
    for left in range(1, STEPS + 1):
        v = (policy * q[left - 1]).sum(1)
        v[DEATH:] = 0
        target = weight * (reward + v[following])
        mean = target.sum() / max(weight.sum(), 1)
        q[left] = ((np.bincount(cell, target, size) + mean) / counts).reshape(policy.shape)
    return q


def read_q(q: Floats, log: Log, policy: Floats) -> tuple[Floats, Floats]:
    """[N, T] Q of the logged actions and its expectation over the target's."""
    left = np.broadcast_to(STEPS - np.arange(STEPS), log.mask.shape)
    state = log.state[:, :-1]
    v = (q * policy).sum(-1)
    return q[left, state, log.action] * log.mask, v[left, state] * log.mask


def cross_fitted_q(log: Log, policy: Floats, folds: int = 5) -> tuple[Floats, Floats]:
    """:func:`read_q` of each stay by a Q fitted on the other folds."""
    fold = np.arange(len(log)) % folds
    q_taken, v = np.zeros(log.mask.shape), np.zeros(log.mask.shape)
    for k in range(folds):
        q = tabular_q(log.take(fold != k), policy)
        q_taken[fold == k], v[fold == k] = read_q(q, log.take(fold == k), policy)
    return q_taken, v
