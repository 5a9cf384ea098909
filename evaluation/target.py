"""The target policy: what an agent would give in each logged state."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.estimators import Floats
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import Agent, BatchAgent, ConcurrentAgent, SampledAgent, prepare
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.trajectories import Trajectories

_SUM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class ActionProbabilities:
    """What an agent would give in each row of a log.

    Shares of sampled answers are unbiased, and since each row has answers of its own, their errors
    are independent between stays: resampling the stays carries them into an interval, as it carries
    what differs between patients, and to redraw the shares as well would count them twice. They
    cost effective sample size.

    Attributes:
        probabilities: [R, 25]; uniform in final states of walked stays, where none is asked.
        samples: Answers behind each row; None if the probabilities are exact.
    """

    probabilities: Floats
    samples: int | None = None


def soften(probabilities: Floats, share: float) -> Floats:
    """Mixes a share of the uniform policy into [R, 25] probabilities."""
    return (1 - share) * probabilities + share / N_ACTIONS


def agent_probabilities(
    name: str, agent: Agent, trajectories: Trajectories, model: TransitionModel | None = None
) -> ActionProbabilities:
    """Asks an agent about every logged state.

    Batch agents get the array of observations. Others are walked through each stay, seeing the
    logged states whatever they would have done; those that can, many stays at a time.

    Args:
        name: For messages.
        agent: The agent.
        trajectories: The stays.
        model: What :meth:`~sepsis_gym.dynamics.Simulator.simulate` asks on the way.

    Raises:
        ValueError: An answer is no probability distribution over the 25 actions.
    """
    samples = agent.probability_samples if isinstance(agent, SampledAgent) else None
    if isinstance(agent, BatchAgent):
        agent.reset()
        answers = np.asarray(agent.batch_probabilities(trajectories.observations()), np.float64)
        _check(name, answers, len(trajectories.is_decision))
        return ActionProbabilities(answers, samples)
    walk = partial(_walk, name, agent, trajectories, model)
    stays = range(len(trajectories))
    with at_once(agent) as each:
        walked = tqdm(each(walk, stays), desc=name, total=len(stays), unit="stay", disable=None)
        return ActionProbabilities(np.concatenate(list(walked)), samples)


@contextmanager
def at_once(agent: Agent) -> Iterator[Callable[..., Iterable[Any]]]:
    """What maps over stays, as many at a time as the agent can, in their order.

    After an error no further stay is begun.
    """
    if not isinstance(agent, ConcurrentAgent) or agent.workers == 1:
        yield map
        return
    with ThreadPoolExecutor(agent.workers) as pool:
        yield pool.map


def for_one_stay(agent: Agent) -> Agent:
    """The agent as it may be used while others of :func:`at_once` are."""
    return agent.session() if isinstance(agent, ConcurrentAgent) else agent


def _walk(
    name: str, agent: Agent, log: Trajectories, model: TransitionModel | None, position: int
) -> Floats:
    """[T + 1, 25] answers in one stay."""
    from sepsis_gym.envs.replay import SepsisReplayEnv

    stay = log.select(np.array([position]))
    env = SepsisReplayEnv(stay, model=model)
    own = for_one_stay(agent)
    answers = np.full((len(stay.action), N_ACTIONS), 1 / N_ACTIONS)
    observation, info = env.reset(options={"stay_id": stay.stays.stay_id.item()})
    prepare(own, env)
    for step, action in enumerate(stay.action[:-1].tolist()):
        answer = np.asarray(own.action_probabilities(observation, info), np.float64)
        _check(f"{name}, stay {info['stay_id']}, step {step}", answer[None], 1)
        answers[step] = answer
        observation, _, _, _, info = env.step(action)
    return answers


def _check(name: str, answers: Floats, n: int) -> None:
    if answers.shape != (n, N_ACTIONS):
        raise ValueError(f"agent {name}: probabilities must be {(n, N_ACTIONS)}: {answers.shape}")
    valid = np.all(answers >= 0, axis=1) & (np.abs(answers.sum(1) - 1) < _SUM_TOLERANCE)
    if not valid.all():
        row = int(np.flatnonzero(~valid)[0])
        raise ValueError(
            f"agent {name}: row {row} is no probability distribution: {answers[row]}, "
            f"sum {answers[row].sum():.6f}"
        )
