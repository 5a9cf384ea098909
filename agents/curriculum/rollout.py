"""Decisions drawn from the model in training, and what the world model makes of them.

The agent decides as it does everywhere else (:class:`agents.llm.LLMAgent`), many states at a time;
what it read and wrote is kept as tokens.
"""

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.curriculum.config import CurriculumConfig
from agents.curriculum.situations import LoggedSituation, ModelStay, Situation, evenly
from agents.guideline import GuidelineAgent
from agents.llm import LLMAgent, Sampling, TransformersBackend
from agents.llm.backend import Message
from agents.llm.dialogue import answer_to, render
from agents.llm.prompt import CALL_HEAD, CALL_MIDDLE
from agents.planner import PlanningAgent
from sepsis_gym.actions import N_ACTIONS, N_LEVELS, decode_action
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import decode_observation

REWARDS = ("value", "guideline", "invalid")
_LEAST_SCALE = 1e-3
TOLD = ("valid", "simulations", "fallback")
"""What else is logged of each decision."""


@dataclass
class Decision:
    """What the model read and wrote until it prescribed.

    Attributes:
        prompt: Tokens of the opening.
        completion: Tokens after it.
        written: Of which the model wrote.
        action: What it prescribed, or the fallback gave.
        counts: Of the session.
    """

    prompt: list[int]
    completion: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)
    action: int = -1
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, tokens: Sequence[int], *, written: bool) -> None:
        """Goes on."""
        self.completion += tokens
        self.written += [int(written)] * len(tokens)


def decide(
    backend: TransformersBackend,
    agents: Sequence[LLMAgent],
    situations: Sequence[Situation],
    draws: Sequence[int],
) -> list[Decision]:
    """One decision in each of n situations, turn by turn together.

    Args:
        backend: The model.
        agents: How each of them is asked.
        situations: The states.
        draws: Numbers that tell decisions in the same state apart.
    """
    tokenizer, told, live = backend.tokenizer, list[Decision](), {}
    for at, (agent, here) in enumerate(zip(agents, situations, strict=True)):
        session, deciding, opening = _begin(tokenizer, agent, here)
        told.append(Decision(opening))
        live[at] = session, deciding
    while live:
        asked = [told[at].prompt + told[at].completion for at in live]
        replies = backend.replies(asked, [draws[at] for at in live])
        for at, reply in zip(list(live), replies, strict=True):
            session, deciding = live[at]
            told[at].add(reply.tokens, written=True)
            spoken = len(session.transcript[-1]) + 1
            try:
                messages = deciding.send(reply)
            except StopIteration as decided:
                here = situations[at]
                action = decided.value
                if action is None:
                    action = session.fallback.act(here.observation, here.info)
                told[at].action, told[at].counts = action, session.counts
                del live[at]
            else:
                if reply.cut:
                    told[at].add([tokenizer.eos_token_id], written=False)
                rest = answer_to(tokenizer, messages, spoken, session.tools())
                told[at].add(rest, written=False)
    return told


def _begin(
    tokenizer: Any, agent: LLMAgent, here: Situation
) -> tuple[LLMAgent, Generator[list[Message], Any, int | None], list[int]]:
    """A session of its own, the decision that it is going to make, and what it reads first."""
    session = agent.session(here.past)
    session.bind(here.simulator)
    deciding = session.deciding(here.info)
    opening = render(tokenizer, next(deciding), session.tools())
    return session, deciding, tokenizer(opening, add_special_tokens=False)["input_ids"]


def level_tokens(tokenizer: Any) -> list[int]:
    """The token of each level's digit."""
    return [tokenizer(str(k), add_special_tokens=False)["input_ids"][-1] for k in range(N_LEVELS)]


def digits_at(tokenizer: Any, completion: list[int]) -> tuple[int, int]:
    """Where the last prescription's two digits stand; -1, -1 if it has another form than ours."""
    levels = set(level_tokens(tokenizer))
    places = [at for at, token in enumerate(completion) if token in levels][-2:]
    if len(places) == 2:
        fluid, vasopressor = places
        head = tokenizer.decode(completion[:fluid])
        between = tokenizer.decode(completion[fluid + 1 : vasopressor])
        if head.endswith(CALL_HEAD) and between == CALL_MIDDLE:
            return fluid, vasopressor
    return -1, -1


def as_the_worst(worth: NDArray[np.floating], failed: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Gives the failed what the worst got, or a model learns to fail, for the fallback is better.

    Args:
        worth: [n] of each decision.
        failed: [n] whether the fallback made it.
    """
    return np.where(failed, worth.min(), worth)


def _digits(tokenizer: Any, decision: Decision) -> tuple[int, int]:
    failed = decision.counts["repairs"] + decision.counts["fallbacks"]
    return (-1, -1) if failed else digits_at(tokenizer, decision.completion)


def _at(values: NDArray[np.float64], action: NDArray[np.integer]) -> NDArray[np.float64]:
    return np.take_along_axis(values, action[:, None], 1)[:, 0]


class Rollouts:
    """TRL's ``rollout_func``: prompts in, decisions and their worth out.

    A prompt is JSON: ``{"at": position of the situation or seed of the stay, "alone": decisions of
    its group without the simulator}``.
    """

    def __init__(
        self,
        situations: Sequence[LoggedSituation],
        agent: Callable[[bool], LLMAgent],
        model: TransitionModel,
        config: CurriculumConfig,
    ) -> None:
        """Sets the rollouts up.

        Args:
            situations: Logged states to decide in.
            agent: The agent with or without its simulator.
            model: World model that judges.
            config: Of the curriculum.
        """
        self.situations, self.config, self._model = situations, config, model
        self._agents = {simulate: agent(simulate) for simulate in (False, True)}
        self._guideline = GuidelineAgent(model.preprocessing)
        rl = config.rl
        self._planner = PlanningAgent(model, horizon=rl.horizon, penalty=rl.doubt)

    def prompts(self) -> list[str]:
        """As many as the stage asks about, in order."""
        rl, rng = self.config.rl, np.random.default_rng(self.config.seed)
        n = rl.steps * rl.patients
        whole = rl.whole_stay
        order = rng.integers(2**31, size=n) if whole else evenly(self._kinds(), n, rng)
        drawn, share = rng.random(n), self.config.without_simulator
        alone = np.floor(rl.group * share + drawn) if rl.all_doses else rl.group * (drawn < share)
        return [
            json.dumps({"at": int(at), "alone": int(few)})
            for at, few in zip(order, alone, strict=True)
        ]

    def _kinds(self) -> NDArray[np.int64]:
        """[n] of each situation: what the guideline gives there, fluid or not and which level."""
        usual = self._guideline.choose(np.stack([each.observation for each in self.situations]))
        fluid, vasopressor = decode_action(usual)
        return np.asarray(vasopressor + N_LEVELS * (fluid > 0))

    def opening_tokens(self, tokenizer: Any) -> float:
        """How many tokens a model reads before it first speaks, about."""
        here = self.situations[0] if self.situations else ModelStay(self._model, 0).situation()
        agents = self._agents.values()
        return float(np.mean([len(_begin(tokenizer, agent, here)[-1]) for agent in agents]))

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """What TRL asks for, and the rewards of :data:`REWARDS` as further columns."""
        from trl.models.utils import unwrap_model_for_generation

        with unwrap_model_for_generation(trainer.model_wrapped, trainer.accelerator) as network:
            training = network.training
            loaded = network, trainer.processing_class
            accelerator = trainer.accelerator  # a group may be spread over its processes
            step = int(trainer.state.global_step) * accelerator.num_processes
            step += accelerator.process_index
            asked = self.asked(prompts, accelerator.process_index * len(prompts))
            told = self.roll(loaded, asked, step)
            network.train(training)
        return told

    def asked(self, prompts: Sequence[str], first: int = 0) -> list[dict[str, Any]]:
        """What :meth:`roll` is asked: each prompt comes once for each decision of its group.

        Args:
            prompts: Those of a process.
            first: How many the processes before it have.
        """
        told = []
        for place, text in enumerate(prompts, start=first):
            one = json.loads(text)
            simulate = place % self.config.rl.group >= one["alone"]
            told.append({"at": one["at"], "simulate": simulate})
        return told

    def roll(
        self, loaded: tuple[Any, Any], asked: Sequence[dict[str, Any]], step: int
    ) -> dict[str, Any]:
        """Decides and judges, given a model with its tokenizer, where and how, and the step.

        The same step draws the same decisions.
        """
        agents = [self._agents[one["simulate"]] for one in asked]
        if self.config.rl.whole_stay:
            here: Sequence[Situation]
            decided, value, here = self._stays(loaded, agents, [one["at"] for one in asked], step)
        else:
            here = [self.situations[one["at"]] for one in asked]
            decided = self._decide(loaded, agents, here, step)
        action = np.array([one.action for one in decided])
        observations = np.stack([each.observation for each in here])
        bad = np.array([one.counts["repairs"] + one.counts["fallbacks"] for one in decided])
        failed = np.array([one.counts["fallbacks"] > 0 for one in decided])
        rl, charges = self.config.rl, self._charges(observations)
        charge, all_doses = _at(charges, action), {}
        if not rl.whole_stay:
            values = self._values(observations) if rl.all_doses else None
            value = (
                self.beyond_guideline(observations, action)
                if values is None
                else _at(values, action)
            )
            value = np.clip(value, -rl.bound, rl.bound)
            if values is not None:
                failure = value.min() + charge.min() - rl.invalid
                scale = max(float(np.std(value + charge - rl.invalid * bad)), _LEAST_SCALE)
                worth = values.clip(-rl.bound, rl.bound) + charges - failure
                digits = [_digits(loaded[1], one) for one in decided]
                all_doses = {"worth": (worth / scale).tolist(), "digits": digits}
                if (bad == 0).any() and max(digits) < (0, 0):
                    raise ConfigError(
                        "the model prescribes, but not in the form whose digits are found "
                        f"({CALL_HEAD!r}, digit, {CALL_MIDDLE!r}, digit): take rl.all_doses=False"
                    )
        return all_doses | {
            "prompt_ids": [one.prompt for one in decided],
            "completion_ids": [one.completion for one in decided],
            "logprobs": None,
            "env_mask": [one.written for one in decided],
            "value": as_the_worst(value, failed).tolist(),
            "guideline": as_the_worst(charge, failed).tolist(),
            "invalid": (-rl.invalid * bad).tolist(),
            "valid": (bad == 0).astype(float).tolist(),
            "action": action.tolist(),
            "simulations": [float(one.counts["simulations"]) for one in decided],
            "fallback": [float(one.counts["fallbacks"]) for one in decided],
        }

    def beyond_guideline(
        self, observations: NDArray[np.float32], action: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """[n] what the planner expects of actions in n states beyond the guideline's."""
        patients = decode_observation(observations, self._model.preprocessing)
        usual = self._guideline.choose(observations)
        value: NDArray[np.float64] = self._planner.value(patients, action)
        return value - self._planner.value(patients, usual)

    def _values(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n, 25] the same of all actions."""
        n, usual = len(observations), self._guideline.choose(observations)
        repeated = np.repeat(observations, N_ACTIONS, axis=0)
        patients = decode_observation(repeated, self._model.preprocessing)
        value = self._planner.value(patients, np.tile(np.arange(N_ACTIONS), n))
        values = value.reshape(n, N_ACTIONS)
        return np.asarray(values - _at(values, usual)[:, None], np.float64)

    def _charges(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """[n, 25] what is charged for the levels by which actions are away from the guideline."""
        usual = self._guideline.choose(observations)
        own, every = decode_action(usual), decode_action(np.arange(N_ACTIONS))
        apart = [abs(level[None] - ours[:, None]) for level, ours in zip(every, own, strict=True)]
        return -self.config.rl.guideline * np.sum(apart, axis=0)

    def _decide(
        self,
        loaded: tuple[Any, Any],
        agents: Sequence[LLMAgent],
        situations: Sequence[Situation],
        step: int,
        *,
        greedy: bool = False,
    ) -> list[Decision]:
        temperature = 0.0 if greedy else self.config.rl.temperature
        sampling = Sampling(
            temperature, self.config.max_tokens, 1_000_003 * self.config.seed + step
        )
        at_once = 8 * self.config.rl.at_once  # reading takes less memory than learning
        backend = TransformersBackend(
            "in training", sampling=sampling, batch_size=at_once, loaded=loaded
        )
        return decide(backend, agents, situations, range(len(agents)))

    def _stays(
        self, loaded: tuple[Any, Any], agents: Sequence[LLMAgent], seeds: Sequence[int], step: int
    ) -> tuple[list[Decision], NDArray[np.float64], list[Situation]]:
        """Decides once in each of n stays and goes on as the model would most likely.

        The decision's step is drawn by the stay's seed, and so is all luck, so that a group's
        stays are one until its members decide.

        Returns:
            The decisions, [n] what the world model paid from then on, and where they were made.
        """
        groups = {seed: ModelStay(self._model, seed) for seed in seeds}
        asked = dict(zip(seeds, agents, strict=True))
        while early := [seed for seed, stay in groups.items() if not stay.due]:
            self._move(loaded, [(asked[seed], groups[seed]) for seed in early], step)
        stays = [groups[seed].branch() for seed in seeds]
        here = [stay.situation() for stay in stays]
        decided = self._decide(loaded, agents, here, step)
        for stay, one in zip(stays, decided, strict=True):
            stay.paid = 0.0
            stay.move(one.action)
        pairs = list(zip(agents, stays, strict=True))
        while ongoing := [pair for pair in pairs if not pair[1].over]:
            self._move(loaded, ongoing, step)
        return decided, np.array([stay.paid for stay in stays]), here

    def _move(
        self, loaded: tuple[Any, Any], asked: Sequence[tuple[LLMAgent, ModelStay]], step: int
    ) -> None:
        agents, stays = zip(*asked, strict=True)
        situations = [stay.situation() for stay in stays]
        decided = self._decide(loaded, agents, situations, step, greedy=True)
        for stay, one in zip(stays, decided, strict=True):
            stay.move(one.action)
