"""Asking a chat model yes-or-no questions about patients, for a probability."""

import re
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from agents.llm import assessment, prompt
from agents.llm.backend import ChatBackend, Message, shares_of
from sepsis_gym.envs.replay import SepsisReplayEnv
from sepsis_gym.trajectories import Trajectories

_ANSWER = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Forecasts:
    """Answers to n questions.

    Attributes:
        probability: [n] of yes; what could not be read counts as one half.
        malformed: Answers that could not be read.
    """

    probability: NDArray[np.float64]
    malformed: int


def questions(log: Trajectories, rows: Collection[int], question: str) -> list[list[Message]]:
    """The dialogues that ask a question about logged states, in the order of the rows.

    Args:
        log: The stays.
        rows: Ascending rows of decisions.
        question: A key of :data:`agents.llm.assessment.QUESTIONS`.
    """
    wanted, dialogues = set(rows), []
    env = SepsisReplayEnv(log)
    for position, stay in enumerate(log.stays.stay_id.tolist()):
        asked = [row for row in range(*log.offsets[position : position + 2]) if row in wanted]
        if not asked:
            continue
        _, info = env.reset(options={"stay_id": stay})
        past = prompt.Past()
        for row in range(int(log.offsets[position]), asked[-1] + 1):
            if row in wanted:
                dialogues.append(assessment.ask(info, past, [assessment.QUESTIONS[question]]))
            past.add(info)
            _, _, _, _, info = env.step(int(log.action[row]))
    return dialogues


def ask(
    backend: ChatBackend,
    dialogues: Sequence[list[Message]],
    *,
    samples: int | None = None,
    workers: int = 1,
) -> Forecasts:
    """Asks a chat model.

    Args:
        backend: The model.
        dialogues: Made by :func:`questions`.
        samples: Answers drawn per question, whose share of yes counts, from a backend that samples;
            None to read the probability off the first token.
        workers: Questions at a time.

    Raises:
        BackendError: The server cannot be reached or, without ``samples``, gives no token
            log-probabilities.
    """
    answer = partial(_token, backend) if samples is None else partial(_share, backend, samples)
    with ThreadPoolExecutor(workers) as pool:
        told = pool.map(answer, dialogues)
        read = list(tqdm(told, total=len(dialogues), unit="question", disable=None))
    probability = np.array([yes for yes, _ in read], np.float64)
    return Forecasts(probability, sum(malformed for _, malformed in read))


def _token(backend: ChatBackend, messages: list[Message]) -> tuple[float, int]:
    shares = shares_of(("yes", "no"), backend.next_token(messages))
    return (0.5, 1) if shares is None else (float(shares[0]), 0)


def _share(backend: ChatBackend, samples: int, messages: list[Message]) -> tuple[float, int]:
    read = [_read(backend.complete(messages, (), draw=k).content) for k in range(samples)]
    unread = read.count(None)
    return (read.count("yes") + unread / 2) / samples, unread


def _read(text: str) -> str | None:
    found = _ANSWER.match(text)
    return found[1].lower() if found else None
