"""What is learned from text: questions about the patient's course, and the teacher's decisions."""

import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from agents.curriculum.config import CurriculumConfig
from agents.curriculum.situations import logged_situations
from agents.guideline import GuidelineAgent
from agents.llm import LLMAgent, assessment, prompt
from agents.llm.backend import Message
from agents.llm.teacher import COMPARE
from sepsis_gym.actions import N_ACTIONS, decode_action, encode_action
from sepsis_gym.agent import prepare
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.envs.replay import SepsisReplayEnv
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories

Dialogue = tuple[list[Message], list[dict[str, Any]]]
"""Messages, and the tools they were held with."""
_MAP = FEATURE_INDEX["meanbp"]
_NEXT_STATE, _WHAT_IF = 0.3, 0.2
"""How often; yes or no is always asked, in far fewer tokens."""


def present(log: Trajectories, model: TransitionModel) -> list[Dialogue]:
    """A dialogue about each decision of the log: what its last line says; nothing is foretold."""
    told = []
    for here in logged_situations(log, model, progress="to read"):
        said = [assessment.present_answer(here.info)]
        messages = assessment.ask(here.info, here.past, [assessment.PRESENT], said)
        told.append((messages, list[dict[str, Any]]()))
    return told


def facts(log: Trajectories, model: TransitionModel, *, seed: int) -> list[Dialogue]:
    """A dialogue about each decision of the log: yes or no about what its last line says.

    A model from scratch that has never answered yes or no to what it can read does not find, in the
    few examples of an outcome, what that outcome depends on.
    """
    rng, told = np.random.default_rng(seed), list[Dialogue]()
    for here in logged_situations(log, model, progress="facts"):
        truths = assessment.present_facts(here.info)
        asked = list(truths)[rng.integers(len(truths))]
        said = [_yes_or_no(truths[asked])]
        told.append((assessment.ask(here.info, here.past, [asked], said), []))
    return told


def dynamics(
    log: Trajectories,
    model: TransitionModel,
    answers: Mapping[str, NDArray[np.float64]],
    *,
    most: int,
    seed: int,
) -> list[Dialogue]:
    """A dialogue about each decision of the log: outcomes, states, what if; in any order.

    Args:
        log: The stays, whose next values and outcomes are the answers.
        model: World model that answers what would have been.
        answers: Of each of :data:`agents.llm.assessment.QUESTIONS` [rows]: 1, 0, or NaN where it is
            not asked.
        most: Questions in a dialogue.
        seed: Of the choice and order of questions and treatments.
    """
    rng, told = np.random.default_rng(seed), list[Dialogue]()
    for here in logged_situations(log, model, progress="questions"):
        asked = [
            (assessment.QUESTIONS[name], _yes_or_no(truth[here.row]))
            for name, truth in answers.items()
            if not np.isnan(truth[here.row])
        ]
        if rng.random() < _NEXT_STATE:
            said = assessment.outcome_answer(here.info, here.following)
            asked.append((assessment.outcome_question(here.action), said))
        if here.info["known"][_MAP] and rng.random() < _WHAT_IF:
            actions = rng.choice(N_ACTIONS, 2, replace=False)
            said = assessment.choice_answer(here.simulator.simulate(actions))
            asked.append((assessment.choice_question((int(actions[0]), int(actions[1]))), said))
        order = rng.permutation(len(asked))[:most]
        questions, said_to = zip(*(asked[at] for at in order), strict=True)
        told.append((assessment.ask(here.info, here.past, questions, said_to), []))
    return told


def _yes_or_no(truth: SupportsFloat) -> str:
    return "yes" if truth else "no"


def mixed(
    texts: Sequence[Dialogue], others: Sequence[Dialogue], share: float, seed: int
) -> list[Dialogue]:
    """The dialogues and as many others, drawn, as make up the share, or all there are."""
    n = min(round(len(texts) * share / (1 - share)), len(others))
    drawn = np.random.default_rng(seed).choice(len(others), n, replace=False)
    return [*texts, *(others[at] for at in drawn)]


@dataclass(frozen=True)
class Held:
    """A decision of the teacher's.

    Attributes:
        messages: Its dialogue.
        guideline: What the guideline would have given.
        died_90d: Whether the logged patient died.
    """

    messages: list[Message]
    guideline: int
    died_90d: bool

    @property
    def action(self) -> int:
        """What the teacher prescribed."""
        doses = json.loads(self.messages[-1]["tool_calls"][0]["function"]["arguments"])
        return int(encode_action(doses["iv_fluid"], doses["vasopressor"]))


def decisions(
    teacher: LLMAgent, log: Trajectories, model: TransitionModel, kept: Path
) -> list[Held]:
    """The teacher's dialogues about the decisions of the log, but those that needed a repair.

    Args:
        teacher: The rule, or a language model.
        log: The stays.
        model: World model to simulate in.
        kept: File that holds what was told before, a JSON line per stay; it holds patients.
    """
    done: dict[int, list[dict[str, Any]]] = {}
    if kept.exists():
        whole, _, torn = kept.read_bytes().rpartition(b"\n")
        if torn:  # a kill cut the last line short
            os.truncate(kept, len(whole) + (len(whole) > 0))
        for line in whole.splitlines():
            entry = json.loads(line)
            done[entry["stay_id"]] = entry["held"]
    guideline = GuidelineAgent(log.preprocessing)

    def hold(stay: int) -> list[dict[str, Any]]:
        if stay in done:
            return done[stay]
        env, session, held = SepsisReplayEnv(log, model=model), teacher.session(), []
        observation, info = env.reset(options={"stay_id": stay})
        prepare(session, env)
        over = False
        while not over:
            before = session.counts["repairs"] + session.counts["fallbacks"]
            usual = int(guideline.choose(observation[None])[0])
            action = session.act(observation, info)
            if session.counts["repairs"] + session.counts["fallbacks"] == before:
                held.append({"messages": session.transcript[-1], "guideline": usual})
            observation, _, over, _, info = env.step(action)
        return held

    told: list[Held] = []
    stays, died = log.stays.stay_id.tolist(), log.stays.died_90d.tolist()
    with ThreadPoolExecutor(teacher.workers) as pool, kept.open("a", encoding="utf-8") as file:
        each = tqdm(pool.map(hold, stays), "teacher's dialogues", len(stays), disable=None)
        for stay, dead, held in zip(stays, died, each, strict=True):
            if stay not in done:
                file.write(json.dumps({"stay_id": stay, "held": held}) + "\n")
                file.flush()
            told += [Held(**one, died_90d=bool(dead)) for one in held]
    return told


def imitated(
    held: Sequence[Held], preprocessing: Preprocessing, config: CurriculumConfig
) -> list[Dialogue]:
    """The dialogues worth imitating; some of them as if there were no simulator.

    Raises:
        ConfigError: There is none.
    """
    rng, chosen = np.random.default_rng(config.seed), list[Dialogue]()
    for one in held:
        away = np.abs(np.subtract(decode_action(one.action), decode_action(one.guideline))).max()
        if away > config.guideline_reach or (config.survivors_only and one.died_90d):
            continue
        if rng.random() < config.without_simulator:
            alone = without_simulator(one.messages, preprocessing)
            chosen.append((alone, prompt.tools(simulate=False)))
        else:
            chosen.append((one.messages, prompt.tools(simulate=True)))
    if not chosen:
        raise ConfigError(
            f"none of {len(held)} dialogues is worth imitating: relax survivors_only or "
            "guideline_reach, or take more stays"
        )
    return chosen


def without_simulator(messages: Sequence[Message], preprocessing: Preprocessing) -> list[Message]:
    """The same decision by an agent that has no simulator."""
    system = prompt.system_prompt(preprocessing, simulate=False)
    first = next(turn for turn in messages if turn["role"] == "assistant")
    last, said = dict(messages[-1]), first["content"].removesuffix(COMPARE)
    if not last["content"].startswith(said):
        last["content"] = f"{said} {last['content']}".strip()
    return [{"role": "system", "content": system}, messages[1], last]
