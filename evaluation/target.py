"""The target policy: what an agent would give in each logged state."""

import numpy as np
from tqdm import tqdm

from evaluation.estimators import Floats
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import Agent, BatchAgent, prepare
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.trajectories import Trajectories

_SUM_TOLERANCE = 1e-4


def soften(probabilities: Floats, share: float) -> Floats:
    """Mixes a share of the uniform policy into [R, 25] probabilities."""
    return (1 - share) * probabilities + share / N_ACTIONS


def agent_probabilities(
    name: str, agent: Agent, trajectories: Trajectories, model: TransitionModel | None = None
) -> Floats:
    """Asks an agent about every logged state.

    Batch agents get the array of observations. Others are walked through each stay, seeing the
    logged states whatever they would have done.

    Args:
        name: For messages.
        agent: The agent.
        trajectories: The stays.
        model: What :meth:`~sepsis_gym.dynamics.Simulator.simulate` asks on the way.

    Returns:
        [R, 25] probabilities; uniform in final states of walked stays, where none is asked.

    Raises:
        ValueError: An answer is no probability distribution over the 25 actions.
    """
    if isinstance(agent, BatchAgent):
        agent.reset()
        answers = np.asarray(agent.batch_probabilities(trajectories.observations()), np.float64)
        _check(name, answers, len(trajectories.is_decision))
        return answers
    from sepsis_gym.envs.replay import SepsisReplayEnv

    env = SepsisReplayEnv(trajectories, model=model)
    answers = np.full((len(trajectories.is_decision), N_ACTIONS), 1 / N_ACTIONS)
    stays = trajectories.stays.stay_id.tolist()
    for position, stay in enumerate(tqdm(stays, desc=name, unit="stay", disable=None)):
        observation, info = env.reset(options={"stay_id": stay})
        prepare(agent, env)
        first, last = trajectories.offsets[position], trajectories.offsets[position + 1] - 1
        for row in range(first, last):
            answer = np.asarray(agent.action_probabilities(observation, info), np.float64)
            _check(f"{name}, stay {stay}, step {row - first}", answer[None], 1)
            answers[row] = answer
            observation, _, _, _, info = env.step(int(trajectories.action[row]))
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
