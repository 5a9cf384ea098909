"""The target policy: what an agent would give in each logged state."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from tqdm import tqdm

from evaluation.answer_store import AnswerStore, StayAnswers
from evaluation.estimators import Floats
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import Agent, BatchAgent, ConcurrentAgent, SampledAgent, prepare
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.errors import BackendError
from sepsis_gym.trajectories import Trajectories

_SUM_TOLERANCE = 1e-4
_LOST_AFTER = 2
"""Failed stays in a row, per stay at a time, after which the server is given up."""
Walked = tuple[int, StayAnswers | BackendError]


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
    name: str,
    agent: Agent,
    trajectories: Trajectories,
    model: TransitionModel | None = None,
    kept: AnswerStore | None = None,
) -> ActionProbabilities:
    """Asks an agent about every logged state.

    Batch agents get the array of observations. Others are walked through each stay, seeing the
    logged states whatever they would have done; those that can, many stays at a time.

    Args:
        name: For messages.
        agent: The agent; what its sessions counted is added to its ``counts``.
        trajectories: The stays.
        model: What :meth:`~sepsis_gym.dynamics.Simulator.simulate` asks on the way.
        kept: Stays that need not be walked again; those walked now are added. With it, a stay that
            fails for want of a server does not stop the others.

    Raises:
        ValueError: An answer is no probability distribution over the 25 actions.
        BackendError: Stays failed, now or before.
    """
    samples = agent.probability_samples if isinstance(agent, SampledAgent) else None
    if isinstance(agent, BatchAgent):
        agent.reset()
        answers = np.asarray(agent.batch_probabilities(trajectories.observations()), np.float64)
        _check(name, answers, len(trajectories.is_decision))
        return ActionProbabilities(answers, samples)
    walked = _walk_all(name, agent, trajectories, model, kept)
    return ActionProbabilities(np.concatenate([stay.probabilities for stay in walked]), samples)


def _walk_all(
    name: str,
    agent: Agent,
    log: Trajectories,
    model: TransitionModel | None,
    kept: AnswerStore | None,
) -> list[StayAnswers]:
    """Every stay's answers, in their order."""
    stay_ids = log.stays.stay_id.tolist()
    answered = dict(kept.answered) if kept else {}
    failed = dict(kept.failed) if kept else {}
    asked = [at for at, stay in enumerate(stay_ids) if stay not in answered and stay not in failed]
    walk = partial(_walk, name, agent, log, model, isolated=kept is not None)
    here, in_a_row, began = Counter[str](), 0, time.monotonic()
    start, total = len(stay_ids) - len(asked), len(stay_ids)
    bar = tqdm(desc=name, total=total, initial=start, unit="stay", disable=None)
    with bar, at_once(agent) as each:
        for at, told in each(walk, asked):
            if isinstance(told, StayAnswers):
                in_a_row, answered[stay_ids[at]] = 0, told
                here.update(told.counts)
            else:
                in_a_row, failed[stay_ids[at]] = in_a_row + 1, str(told)
            if kept:
                kept.keep(stay_ids[at], told)
            bar.set_postfix_str(_rates(here, time.monotonic() - began), refresh=False)
            bar.update()
            if in_a_row == _LOST_AFTER * _workers(agent):
                break
    missing = [stay for stay in stay_ids if stay not in answered]
    if missing:
        why = next(failed[stay] for stay in missing if stay in failed)
        raise BackendError(
            f"agent {name}: {len(missing)} of {total} stays have no answer: {why}; "
            "the others are kept: run it again with --retry-failed"
        )
    _add_up(agent, [answered[stay].counts for stay in stay_ids])
    return [answered[stay] for stay in stay_ids]


def _add_up(agent: Agent, counted: Iterable[Mapping[str, int]]) -> None:
    own = getattr(agent, "counts", None)
    if own is not None and isinstance(agent, ConcurrentAgent):
        for counts in counted:
            for name, n in counts.items():
                own[name] = own.get(name, 0) + n


def _rates(counts: Mapping[str, int], seconds: float) -> str:
    """How fast a served model answers, for the progress bar."""
    if not counts.get("requests"):
        return ""
    tokens = counts.get("prompt_tokens", 0) + counts.get("completion_tokens", 0)
    return f"{counts['requests'] / seconds:.1f} requests/s, {tokens / seconds:.0f} tokens/s"


def _workers(agent: Agent) -> int:
    return agent.workers if isinstance(agent, ConcurrentAgent) else 1


@contextmanager
def at_once(agent: Agent) -> Iterator[Callable[..., Iterable[Any]]]:
    """What maps over stays, in any order, as many at a time as the agent can.

    When the block is left no further stay is begun.
    """
    if _workers(agent) == 1:
        yield map
        return
    with ThreadPoolExecutor(_workers(agent)) as pool:
        try:
            yield lambda walk, asked: (
                done.result() for done in as_completed([pool.submit(walk, at) for at in asked])
            )
        finally:
            pool.shutdown(cancel_futures=True)


def for_one_stay(agent: Agent) -> Agent:
    """The agent as it may be used while others of :func:`at_once` are."""
    return agent.session() if isinstance(agent, ConcurrentAgent) else agent


def _walk(
    name: str,
    agent: Agent,
    log: Trajectories,
    model: TransitionModel | None,
    position: int,
    *,
    isolated: bool,
) -> Walked:
    """The position again, and the answers in that stay; if ``isolated``, or what failed."""
    from sepsis_gym.envs.replay import SepsisReplayEnv

    stay = log.select(np.array([position]))
    env = SepsisReplayEnv(stay, model=model)
    own = for_one_stay(agent)
    answers = np.full((len(stay.action), N_ACTIONS), 1 / N_ACTIONS)
    observation, info = env.reset(options={"stay_id": stay.stays.stay_id.item()})
    prepare(own, env)
    for step, action in enumerate(stay.action[:-1].tolist()):
        try:
            answer = np.asarray(own.action_probabilities(observation, info), np.float64)
        except BackendError as error:
            if not isolated:
                raise
            return position, error
        _check(f"{name}, stay {info['stay_id']}, step {step}", answer[None], 1)
        answers[step] = answer
        observation, _, _, _, info = env.step(action)
    counts = dict(getattr(own, "counts", {})) if own is not agent else {}
    return position, StayAnswers(answers, counts)


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
