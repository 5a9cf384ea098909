"""How good the offline learners get on the icu-sepsis MDP, where every policy's value is exact.

    pip install -e ".[offline,bench]"
    python benchmarks/icu_sepsis_learners.py

Logs are of clinicians with known behavior (0.9 expert, 0.1 random); states are shown one-hot; the
reward is survival, undiscounted. Nothing is selected by the exact value: the policy counts that is
worth most in the MDP counted from the fifth of the log that was not trained on; the last one and
the best on the way stand beside it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import tyro
from icu_sepsis_mdp import DEATH, ENDED, N_ACTIONS, SURVIVAL, Floats, Log, Mdp
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from tqdm import trange

from agents.learner import OfflineAgent, OfflineConfig, QLearningConfig, Transitions
from agents.offline import (
    BcAgent,
    BcConfig,
    BcqAgent,
    BcqConfig,
    CqlAgent,
    CqlConfig,
    DoubleDqnAgent,
    DqnAgent,
)
from agents.training import torch_settings
from agents.wd3qne import Wd3qneAgent, Wd3qneConfig

N_STATES = ENDED + 1
LOOKS = 30
LEARNERS: dict[str, tuple[type[OfflineAgent], type[OfflineConfig]]] = {
    "bc": (BcAgent, BcConfig),
    "bcq": (BcqAgent, BcqConfig),
    "cql": (CqlAgent, CqlConfig),
    "dqn": (DqnAgent, QLearningConfig),
    "double_dqn": (DoubleDqnAgent, QLearningConfig),
    "wd3qne": (Wd3qneAgent, Wd3qneConfig),
}


def survival(transition: Floats, first: Floats, policy: Floats) -> float:
    """Survival under a [S, 25] policy, however long it takes."""
    moves = np.einsum("sa,sat->st", policy, transition)
    stays = np.eye(DEATH) - moves[:DEATH, :DEATH]
    return float(first[:DEATH] @ np.linalg.solve(stays, moves[:DEATH, SURVIVAL]))


def counted(log: Log, weight: float = 5.0) -> tuple[Floats, Floats]:
    """Moves [S, 25, S] and first states [S] of a log.

    An action counts as having been given ``weight`` times more with what all actions led to in the
    state, so that one never seen is worth what others are worth there.
    """
    state, action, after = log.state[:, :-1][log.mask], log.action[log.mask], log.state[:, 1:]
    moves = np.zeros((N_STATES, N_ACTIONS, N_STATES))
    np.add.at(moves, (state, action, after[log.mask]), 1.0)
    usual = moves.sum(1, keepdims=True) + 1e-9 / N_STATES
    usual[:, :, DEATH] += 1e-9  # a state never met leads to death, so that all courses end
    moves += weight * usual / usual.sum(-1, keepdims=True)
    moves /= moves.sum(-1, keepdims=True)
    return moves, np.bincount(log.state[:, 0], minlength=N_STATES) / len(log)


def batches(log: Log, size: int, rng: np.random.Generator) -> Callable[[], Transitions]:
    """What draws transitions of a log, states one-hot."""
    shown = np.eye(N_STATES, dtype=np.float32)
    mask, following = log.mask, np.roll(log.action, -1, axis=1)
    state, after = log.state[:, :-1][mask], log.state[:, 1:][mask]
    columns = [
        array[:, None].astype(np.float32)
        for array in (log.action[mask], log.reward[mask], following[mask], after >= DEATH)
    ]
    sofa = np.full((size, 1), 24, np.float32)  # nobody is mild: the MDP has no SOFA

    def draw() -> Transitions:
        i = rng.integers(len(state), size=size)
        action, reward, next_action, terminal = (column[i] for column in columns)
        return Transitions(
            shown[state[i]], action, reward, shown[after[i]], next_action, terminal, sofa
        )

    return draw


def values(
    name: str, mdp: Mdp, log: Log, config: Any, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Exact value of the policy at each look of a training, and what the held-out log says."""
    kind: Any = type("Icu", (LEARNERS[name][0],), {"INPUTS": N_STATES})
    held = np.arange(len(log)) % 5 == 0
    judge = counted(log.take(held))
    draw = batches(log.take(~held), config.batch_size, np.random.default_rng(seed))
    exact, fitted, shown = [], [], np.eye(N_STATES, dtype=np.float32)
    with torch_settings(config.threads, seed):
        learner, _ = kind.learner(config, 1.0)
        for step in trange(config.n_steps, desc=name, unit="update", disable=None):
            learner.update(draw())
            if (step + 1) % config.check_interval == 0:
                agent = kind(config, learner.weights(), None, {"seed": 0})
                policy = agent.batch_probabilities(shown)
                exact.append(survival(mdp.transition, mdp.first, policy))
                fitted.append(survival(*judge, policy))
    return np.array(exact), np.array(fitted)


def main(
    learners: tuple[str, ...] = tuple(LEARNERS),
    episodes: tuple[int, ...] = (10_000, 50_000),
    steps: int = 9_000,
    seeds: int = 1,
    learning_rate: float = 3e-4,
    hidden_units: tuple[int, ...] = (128,),
    alpha: float = 0.02,
    flexibility: float = 0.3,
) -> None:
    """Trains and prints exact values.

    Args:
        learners: Which.
        episodes: Sizes of the log.
        steps: Gradient updates.
        seeds: Trainings of each, on logs of their own.
        learning_rate: Adam step size.
        hidden_units: Widths of the hidden layers.
        alpha: Of CQL.
        flexibility: Of BCQ.
    """
    mdp = Mdp()
    behavior = 0.9 * mdp.expert + 0.1 / N_ACTIONS
    console, table = Console(), Table(title="Exact value on icu-sepsis")
    for column in ("learner", "episodes", "chosen", "at update", "last", "best on the way"):
        table.add_column(column, justify="left" if column == "learner" else "right")
    for name in learners:
        config: Any = LEARNERS[name][1](
            n_steps=steps, learning_rate=learning_rate, hidden_units=hidden_units,
            check_interval=max(steps // LOOKS, 1),
        )  # fmt: skip
        if isinstance(config, QLearningConfig):
            config = replace(config, gamma=1.0)
        if isinstance(config, CqlConfig):
            config = replace(config, alpha=alpha)
        if isinstance(config, BcqConfig):
            config = replace(config, action_flexibility=flexibility)
        for n in episodes:
            told = []
            for seed in range(seeds):
                log = mdp.simulate(behavior, n, np.random.default_rng([seed, n]))
                exact, fitted = values(name, mdp, log, config, seed)
                at = fitted.argmax()
                update = (at + 1) * config.check_interval
                told.append((exact[at], update, exact[-1], exact.max()))
                console.print(name, n, seed, np.round(told[-1], 3), np.round(exact, 3))
            chosen, update, last, best = np.mean(told, axis=0)
            spread = f" ({min(told)[0]:.3f} to {max(told)[0]:.3f})" if seeds > 1 else ""
            table.add_row(
                name,
                f"{n:,}",
                f"{chosen:.3f}{spread}",
                f"{update:,.0f}",
                f"{last:.3f}",
                f"{best:.3f}",
            )
    optimal = np.eye(N_ACTIONS)[mdp.optimal_q(300).argmax(1)]
    for name, policy in (("expert", mdp.expert), ("behavior", behavior), ("optimal", optimal)):
        table.add_row(name, "", f"{survival(mdp.transition, mdp.first, policy):.3f}", "", "", "")
    console.print(table)


if __name__ == "__main__":
    tyro.cli(main)
