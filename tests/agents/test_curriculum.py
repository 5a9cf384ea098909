"""The curriculum: what is trained on is what is served, and each stage moves what it should."""

import json
import re
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("trl", reason="needs the train extra")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents import make_agent
from agents.curriculum import CurriculumConfig
from agents.curriculum.config import ReinforcementConfig, SupervisedConfig
from agents.curriculum.rollout import REWARDS, Rollouts, decide
from agents.curriculum.situations import evenly, logged_situations
from agents.curriculum.texts import (
    Held,
    decisions,
    dynamics,
    facts,
    imitated,
    mixed,
    present,
    without_simulator,
)
from agents.curriculum.tiny import make_tokenizer, plain_tokenizer, write_tiny
from agents.curriculum.train import in_order, learn_texts, load, reinforce
from agents.llm import LLMAgent, Reply, TeacherAgent
from agents.llm import prompt as prompts
from agents.llm.assessment import QUESTIONS
from agents.llm.dialogue import encode, render
from agents.llm.local import read_tool_calls
from agents.llm.teacher import WEIGHED
from evaluation.target import agent_probabilities
from sepsis_gym.actions import decode_action
from sepsis_gym.cli import main
from sepsis_gym.cli.llm_ablation import Ablation, stages_table
from sepsis_gym.cli.llm_train import _few
from sepsis_gym.errors import ConfigError
from sepsis_gym.trajectories import Trajectories
from world_models import load_world_model

SAMPLE = "sepsis_gym/sample_cohort"
SMALL = CurriculumConfig(lora_rank=None, max_tokens=64, rounds=2, dtype="float32")


@pytest.fixture(scope="module")
def model():
    return load_world_model("default")


@pytest.fixture(scope="module")
def log():
    return Trajectories.load(SAMPLE).split("train").select(np.arange(4))


@pytest.fixture(scope="module")
def held(log, model, tmp_path_factory):
    told, kept = [], tmp_path_factory.mktemp("held")
    for rounds, stays in ((1, [0]), (2, [1, 2, 3])):
        teacher = TeacherAgent(rounds=rounds)
        teacher.preprocessing = log.preprocessing
        told += decisions(teacher, log.select(np.array(stays)), model, kept / f"{rounds}.jsonl")
    return told


@pytest.fixture(scope="module")
def tokenizer(held):
    plain, tools = plain_tokenizer(), prompts.tools(simulate=True)
    return make_tokenizer([render(plain, one.messages, tools, answering=False) for one in held])


@pytest.fixture(scope="module")
def agent(log):
    def make(simulate):
        fallback = make_agent("no_treatment")
        settings = {"simulate": simulate, "max_repairs": 0}
        return LLMAgent(None, log.preprocessing, fallback=fallback, **settings)

    return make


class Parrot:
    """Answers every dialogue with what was once said in it."""

    def __init__(self, tokenizer, dialogues):
        self.tokenizer, self.said, self.asked = tokenizer, {}, []
        for messages, tools in dialogues:
            for at, turn in enumerate(messages):
                if turn["role"] == "assistant":
                    opened = render(tokenizer, messages[:at], tools)
                    spoken = render(tokenizer, messages[: at + 1], tools, answering=False)
                    self.said[self.tokens(opened)] = self.tokens(spoken[len(opened) :].rstrip("\n"))

    def tokens(self, text):
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def replies(self, prompts, draws):
        self.asked += [tuple(prompt) for prompt in prompts]
        told = []
        for prompt in prompts:
            tokens = self.said[tuple(prompt)]
            content, calls = read_tool_calls(self.tokenizer.decode(tokens[:-1]))
            told.append(Reply(content, calls, len(prompt), len(tokens), tokens=tokens))
        return told


def test_rollouts_training_and_serving_see_the_same_tokens(log, model, held, tokenizer, agent):
    """The teacher's dialogues, written again by rollouts, are those that stage 2 trains on."""
    tools = prompts.tools(simulate=True)
    parrot = Parrot(tokenizer, [(one.messages, tools) for one in held])
    here = list(logged_situations(log, model, progress="test"))
    assert len(here) == len(held)
    told = decide(parrot, [agent(True)] * len(here), here, range(len(here)))
    turns = Counter()
    for one, decision in zip(held, told, strict=True):
        ids, written = encode(tokenizer, one.messages, tools)
        rolled = decision.prompt + decision.completion
        assert rolled == ids[: len(rolled)]
        assert tokenizer.decode(ids[len(rolled) :]) == "\n"  # the template's, after the end mark
        own = [0] * len(decision.prompt) + decision.written
        assert own == [int(mine) for mine in written[: len(rolled)]]
        assert decision.action == one.action
        turns[decision.counts["simulations"]] += 1
    assert turns.keys() == {1, 2}
    # what a server is sent is rendered from the messages anew at each turn
    seen = set(parrot.asked)
    for one in held:
        for at, turn in enumerate(one.messages):
            if turn["role"] == "assistant":
                assert parrot.tokens(render(tokenizer, one.messages[:at], tools)) in seen


def test_only_the_models_own_words_are_learned(held, tokenizer):
    messages = held[0].messages
    ids, written = encode(tokenizer, messages, prompts.tools(simulate=True))
    learned = tokenizer.decode([token for token, mine in zip(ids, written, strict=True) if mine])
    *said, rest = learned.split("<|im_end|>")
    turns = [turn for turn in messages if turn["role"] == "assistant"]
    assert rest == ""
    assert [text.partition("\n<tool_call>")[0] for text in said] == [
        turn["content"] for turn in turns
    ]
    calls = [json.loads(text.partition("<tool_call>")[2].partition("</")[0]) for text in said]
    assert [call["name"] for call in calls] == [
        turn["tool_calls"][0]["function"]["name"] for turn in turns
    ]


def test_a_template_that_rewrites_earlier_turns_is_refused(held):
    forgetful = plain_tokenizer()
    forgetful.chat_template = forgetful.chat_template.replace(
        "{{ message.content or '' }}", "{{ message.content or '' if loop.last else '' }}"
    )
    with pytest.raises(ConfigError, match="rewrites earlier turns"):
        encode(forgetful, held[0].messages, prompts.tools(simulate=True))


def test_questions_have_the_logs_answers(log, model):
    always = {"hospital_mortality": np.ones(len(log.action))}
    told = dynamics(log, model, always, most=4, seed=0)
    assert len(told) == log.is_decision.sum()
    kinds = Counter()
    for messages, tools in told:
        assert not tools
        for asked, answer in zip(messages[1::2], messages[2::2], strict=True):
            question = asked["content"].rpartition("\n\n")[2]
            if question == QUESTIONS["hospital_mortality"]:
                kinds["yes"] += answer["content"] == "yes"
            elif question.startswith("Compare"):
                kinds["compare"] += "Higher MAP: " in answer["content"]
            else:
                kinds["next"] += answer["content"].startswith("SOFA ")
    assert kinds["yes"] == len(told)
    assert kinds["compare"] > 5
    assert kinds["next"] > 5
    single = dynamics(log, model, always, most=1, seed=0)
    assert all(len(messages) == 3 for messages, _ in single)


def test_what_is_read_stands_in_the_last_line(log, model):
    seen = set()
    both = zip(present(log, model), facts(log, model, seed=0), strict=True)
    for (quoted, _), (asked, _) in both:
        last = asked[1]["content"].split("\n\n")[0].splitlines()[-1]
        found = re.search(
            r"MAP (?:not known|(\S+) mmHg).*, lactate (?:not known|(\S+) mmol/L).*, "
            r"FiO2 (?:not known|([\d.]+)).*, SOFA (\d+); "
            r"running are fluid level (\d) and vasopressor level (\d)\.",
            last,
        )
        pressure, lactate, fio2, sofa, fluid, vasopressor = found.groups()
        quote = f"SOFA {sofa}; fluid level {fluid}, vasopressor level {vasopressor}"
        assert quote in quoted[-1]["content"]
        question = asked[1]["content"].splitlines()[-1]
        truth = {
            "MAP above 65": pressure and float(pressure) > 65,
            "lactate above 2": lactate and float(lactate) > 2,
            "FiO2 above 0.6": fio2 and float(fio2) > 0.6,
            "SOFA above 6": int(sofa) > 6,
            "fluid running": int(fluid) > 0,
            "vasopressor running": int(vasopressor) > 0,
        }
        [said] = [true for fact, true in truth.items() if fact in question]
        assert asked[-1]["content"] == ("yes" if said else "no"), (last, question)
        seen.add((question, said))
    assert len(seen) >= 9


def test_texts_are_mixed_by_shares():
    ours, others = [("a", [])] * 60, [("b", [])] * 100
    told = mixed(ours, others, 0.25, 0)
    assert (len(told), told.count(("b", []))) == (80, 20)
    assert mixed(ours, others, 0.0, 0) == ours
    assert len(mixed(ours, others, 0.9, 0)) == 160  # no dialogue comes twice
    for wrong in (1.0, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="facts_share must be 0 or more and below 1"):
            CurriculumConfig(facts_share=wrong)


def test_without_the_simulator_the_decision_is_the_same(held, log):
    one = next(one for one in held if len(one.messages) > 5)
    alone = without_simulator(one.messages, log.preprocessing)
    assert [turn["role"] for turn in alone] == ["system", "user", "assistant"]
    assert Held(alone, 0, False).action == one.action
    assert "call simulation" not in alone[0]["content"]
    said = alone[2]["content"]
    assert said.startswith("MAP")
    assert said.endswith(WEIGHED)


def test_what_is_imitated_can_be_filtered(held, log):
    def chosen(**settings):
        return len(imitated(held, log.preprocessing, replace(SMALL, **settings)))

    with pytest.raises(ConfigError, match="worth imitating"):
        imitated([], log.preprocessing, SMALL)
    assert chosen() == len(held)
    assert chosen(survivors_only=True) == sum(not one.died_90d for one in held)
    assert 0 < chosen(guideline_reach=1) < chosen(guideline_reach=3) <= len(held)


def test_kept_dialogues_are_not_asked_for_again(log, model, tmp_path):
    file = tmp_path / "dialogues.jsonl"
    teacher = TeacherAgent()
    teacher.preprocessing = log.preprocessing
    first = decisions(teacher, log, model, file)
    file.write_text(file.read_text()[:-100])  # a kill in the midst of the last stay
    text = file.read_text()
    teacher.session = None  # would fail if any but the last stay were asked about
    with pytest.raises(TypeError):
        decisions(teacher, log, model, file)
    del teacher.session
    assert decisions(teacher, log, model, file) == first
    assert file.read_text().startswith(text[: text.rindex("\n")])
    teacher.session = None
    assert decisions(teacher, log, model, file) == first  # all of them kept, in whole lines


@pytest.fixture
def brief(monkeypatch):
    """Prompts of a few words, so that little training teaches much."""
    monkeypatch.setattr(prompts, "system_prompt", lambda scales, *, simulate: "Treat.")
    monkeypatch.setattr(prompts, "patient_message", lambda info, past: f"Hour {info['hours']}.")


@pytest.fixture
def beginner(brief, log, tmp_path):
    """A model that has learned to prescribe anything, and the dialogues it learned from."""
    rng, tools = np.random.default_rng(0), prompts.tools(simulate=False)
    told = []
    for _ in range(200):
        doses = {"iv_fluid": int(rng.integers(5)), "vasopressor": int(rng.integers(5))}
        function = {"name": "prescription", "arguments": json.dumps(doses)}
        call = {"id": "0", "type": "function", "function": function}
        hour = {"role": "user", "content": f"Hour {4 * rng.integers(1, 19)}."}
        said = {"role": "assistant", "content": "", "tool_calls": [call]}
        told.append(([{"role": "system", "content": "Treat."}, hour, said], tools))
    plain = plain_tokenizer()
    write_tiny(tmp_path / "base", [render(plain, *one, answering=False) for one in told])
    return tmp_path / "base", told


def test_the_pinned_trl_trains_on_the_labels_it_is_given(beginner, tmp_path, monkeypatch):
    """Private to TRL and apt to change: rows that are tokens already, with labels of their own."""
    from transformers import Trainer

    base, told = beginner
    seen = []

    def remember(self, model, inputs, *args, **settings):
        seen.append({name: inputs[name].clone() for name in ("input_ids", "labels")})
        return train_step(self, model, inputs, *args, **settings)

    train_step = Trainer.training_step
    monkeypatch.setattr(Trainer, "training_step", remember)
    learn_texts(str(base), told, tmp_path / "bc", replace(STAGE, steps=1), SMALL)
    tokenizer = AutoTokenizer.from_pretrained(base)
    (batch,) = seen
    assert len(batch["labels"]) == STAGE.batch_size
    for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True):
        learned = labels != -100
        assert torch.equal(labels[learned], ids[learned])
        text = tokenizer.decode(labels[learned])
        assert text.startswith("<tool_call>")
        assert text.endswith("</tool_call><|im_end|>")


STAGE = SupervisedConfig(steps=80, batch_size=16, at_once=16, learning_rate=3e-3)


def logged(out):
    """The values of each curve, by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(out.parent / "tensorboard" / out.name))
    curves.Reload()
    return {
        name: [event.value for event in curves.Scalars(name)] for name in curves.Tags()["scalars"]
    }


@pytest.mark.parametrize(
    "how",
    [
        {"steps": 40, "patients": 4, "group": 8},
        {"steps": 20, "patients": 16, "group": 2, "all_doses": True, "kl": 0.1},
    ],
    ids=["drawn doses", "all doses"],
)
def test_imitation_and_then_reinforcement_find_the_best_action(
    how, beginner, log, model, agent, tmp_path, monkeypatch
):
    base, told = beginner
    learn_texts(str(base), told, tmp_path / "bc", STAGE, SMALL)
    losses = logged(tmp_path / "bc")["train/loss"]
    assert losses[-1] < 0.3 * losses[0]

    def value(self, patients, action):
        return -np.abs(np.subtract(decode_action(action), [[3], [1]])).sum(0)

    def nothing(self, observations):  # so that no state's value is beyond another dose than others'
        return np.zeros(len(observations), np.int64)

    monkeypatch.setattr("agents.planner.PlanningAgent.value", value)
    monkeypatch.setattr("agents.guideline.GuidelineAgent.choose", nothing)
    rl = ReinforcementConfig(**how, at_once=32, learning_rate=5e-4, guideline=0.0, bound=9.0)
    config = replace(SMALL, rl=rl, without_simulator=1.0)
    here = list(logged_situations(log, model, progress="test"))
    reinforce(str(tmp_path / "bc"), Rollouts(here, agent, model, config), tmp_path / "rl", config)
    curves = logged(tmp_path / "rl")
    value = curves["train/rewards/value/mean"]
    assert np.mean(value[-3:]) > np.mean(value[:3]) + 1
    assert min(curves["train/rewards/valid/mean"][:3]) > 0.8
    assert not list(tmp_path.glob("rl/*.bin"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "rl")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "rl").config.vocab_size == len(tokenizer)


JUDGED = (*REWARDS, "valid", "fallback", "action", "worth")


@pytest.fixture
def rolled(beginner, log, model, agent, tmp_path):
    """Decides a batch after a little imitation, by these settings, each time alike."""
    base, told = beginner
    learn_texts(str(base), told, tmp_path / "bc", STAGE, SMALL)
    loaded = load(str(tmp_path / "bc"), SMALL)
    here = list(logged_situations(log, model, progress="test"))

    def roll(rl):
        config = replace(SMALL, rl=rl, without_simulator=1.0)
        rollouts = Rollouts(here, agent, model, config)
        asked = rollouts.asked([text for text in rollouts.prompts() for _ in range(rl.group)])
        told = rollouts.roll(loaded, asked, 0)
        return {name: np.array(column) for name, column in told.items() if name in JUDGED}

    return roll


def test_no_failure_is_worth_more_than_a_decision(rolled):
    """The fallback may decide better than the model; then to fail would be learned."""
    columns = rolled(
        ReinforcementConfig(
            steps=1, patients=16, group=4, at_once=64, guideline=0.5, temperature=2.0
        )
    )
    total, failed = sum(columns[name] for name in REWARDS), columns["fallback"] > 0
    assert 0 < failed.sum() < len(failed)
    assert total[failed].max() < total[~failed].min()


def test_prescriptions_of_another_form_are_not_taken_for_nothing_to_learn(rolled, monkeypatch):
    rl = ReinforcementConfig(steps=1, patients=4, group=2, at_once=8, all_doses=True, kl=0.1)
    columns = rolled(rl)
    worth, valid = columns["worth"], columns["valid"] > 0
    assert worth.shape == (8, 25)
    total = columns["value"] + columns["guideline"]
    own = worth[np.arange(8), columns["action"]]
    slope, level = np.polyfit(own[valid], total[valid], 1)
    np.testing.assert_allclose(slope * own[valid] + level, total[valid], atol=1e-4)
    assert slope > 0
    monkeypatch.setattr("agents.curriculum.rollout.digits_at", lambda *_: (-1, -1))
    with pytest.raises(ConfigError, match=r"take rl\.all_doses=False"):
        rolled(rl)


def test_whole_stays_of_a_group_part_at_one_decision(beginner, log, model, agent, tmp_path):
    base, _ = beginner
    rl = ReinforcementConfig(steps=1, patients=2, group=3, at_once=6, whole_stay=True)
    config = replace(SMALL, rl=rl, without_simulator=1.0, max_tokens=8)
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    rollouts = Rollouts([], agent, model, config)
    asked = rollouts.asked([text for text in rollouts.prompts() for _ in range(3)])
    told = rollouts.roll((network, AutoTokenizer.from_pretrained(base)), asked, 0)
    # an untrained model never prescribes: the fallback does, so that a group's stays stay one
    assert told["fallback"] == [1.0] * 6
    loaded = network, AutoTokenizer.from_pretrained(base)
    seeds = [one["at"] for one in asked]
    _, paid, _ = rollouts._stays(loaded, [agent(False)] * 6, seeds, 0)
    assert len(set(paid[:3])) == len(set(paid[3:])) == 1
    assert paid[0] != paid[3]
    assert told["prompt_ids"][0] == told["prompt_ids"][2] != told["prompt_ids"][3]
    assert rollouts.roll((network, AutoTokenizer.from_pretrained(base)), asked, 0) == told


def test_rare_states_come_as_often_as_frequent_ones():
    kinds = np.repeat([3, 7, 1], [100, 4, 30])
    order = evenly(kinds, 63, np.random.default_rng(0))
    assert Counter(kinds[order].tolist()) == {3: 21, 7: 21, 1: 21}
    assert Counter(kinds[order[:30]].tolist()) == {3: 10, 7: 10, 1: 10}  # in each batch
    times = np.bincount(order, minlength=len(kinds))
    assert (times[kinds == 3].max(), times[kinds == 1].max()) == (1, 1)
    assert (times[kinds == 7].min(), times[kinds == 7].max()) == (5, 6)


def test_a_batch_is_of_like_length_and_all_texts_come():
    lengths = np.random.default_rng(1).integers(100, 1000, size=90)
    rows = [{"input_ids": [at] * n, "labels": [at] * n} for at, n in enumerate(lengths)]
    stage = replace(STAGE, steps=20, batch_size=9)
    order = in_order(rows, stage, seed=0)
    came = np.bincount([row["input_ids"][0] for row in order], minlength=90)
    assert np.array_equal(came, np.full(90, 2))
    spread = np.ptp(np.reshape([len(row["input_ids"]) for row in order], (20, 9)), axis=1)
    assert spread.mean() < 0.15 * np.ptp(lengths)
    assert order == in_order(rows, stage, seed=0)


def test_brief_answers_are_not_lost_among_long_ones():
    rng = np.random.default_rng(2)
    learned = rng.choice([2, 40], size=200)
    lengths = learned + rng.integers(100, 500, size=200)
    rows = [
        {"input_ids": [1] * n, "labels": [-100] * (n - mine) + [1] * mine}
        for n, mine in zip(lengths, learned, strict=True)
    ]
    order = in_order(rows, replace(STAGE, steps=25, batch_size=8), seed=0)
    kinds = np.reshape([row["labels"].count(1) for row in order], (25, 8))
    assert (np.ptp(kinds, axis=1) > 0).sum() <= 1


def test_the_view_before_an_answer_widens(held, tokenizer):
    rows = []
    for one in held:
        ids, written = encode(tokenizer, one.messages, prompts.tools(simulate=True))
        own = [token if mine else -100 for token, mine in zip(ids, written, strict=True)]
        rows.append({"input_ids": ids, "labels": own})
    stage = replace(STAGE, steps=120, widening_steps=100, batch_size=8)
    order = in_order(rows, stage, seed=0)
    lengths = np.array([len(row["input_ids"]) for row in order])
    assert lengths[:80].mean() < 0.5 * lengths[400:480].mean() < lengths[-80:].mean()
    assert all(row in rows for row in order[-80:])
    answers = {
        tuple(part)
        for row in rows
        for part in "".join(map(chr, (max(0, t) for t in row["labels"]))).split(chr(0))
        if part
    }
    for row in order:
        labels = "".join(map(chr, (max(0, token) for token in row["labels"])))
        parts = [tuple(part) for part in labels.split(chr(0)) if part]
        assert parts  # something is learned of each, and whole answers only
        assert answers.issuperset(parts)
        assert all(label in (-100, token) for token, label in zip(*row.values(), strict=True))


@contextmanager
def stopped_at(step, monkeypatch):
    """A kill in the midst of a step."""
    from transformers import Trainer

    train_step, done = Trainer.training_step, Counter()

    def stops(self, *args, **settings):
        done["steps"] += 1
        if done["steps"] == step:
            raise KeyboardInterrupt
        return train_step(self, *args, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "training_step", stops)
        yield


def equal_weights(*folders):
    one, other = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in folders)
    return all(torch.equal(one[name], other[name]) for name in one)


def test_a_stopped_stage_goes_on_to_the_same_weights(
    beginner, log, model, agent, tmp_path, monkeypatch
):
    base, told = beginner
    stage = replace(STAGE, steps=60)
    learn_texts(str(base), told, tmp_path / "bc", stage, SMALL)
    with stopped_at(50, monkeypatch), pytest.raises(KeyboardInterrupt):
        learn_texts(str(base), told, tmp_path / "bc-stopped", stage, SMALL)
    assert not (tmp_path / "bc-stopped").exists()
    learn_texts(str(base), told, tmp_path / "bc-stopped", stage, SMALL)
    assert equal_weights(tmp_path / "bc", tmp_path / "bc-stopped")

    rl = ReinforcementConfig(steps=4, patients=2, group=8, at_once=16, learning_rate=1e-3)
    config = replace(SMALL, rl=rl, without_simulator=1.0)
    here = list(logged_situations(log, model, progress="test"))
    start, rollouts = str(tmp_path / "bc"), Rollouts(here, agent, model, config)
    reinforce(start, rollouts, tmp_path / "rl", config)
    with stopped_at(3, monkeypatch), pytest.raises(KeyboardInterrupt):
        reinforce(start, rollouts, tmp_path / "rl-stopped", config)
    reinforce(start, rollouts, tmp_path / "rl-stopped", config)
    assert equal_weights(tmp_path / "rl", tmp_path / "rl-stopped")
    assert not equal_weights(tmp_path / "rl", tmp_path / "bc")


def test_adapters_are_merged_into_a_plain_model(beginner, tmp_path):
    base, told = beginner
    stage = replace(STAGE, steps=2)
    learn_texts(str(base), told, tmp_path / "bc", stage, replace(SMALL, lora_rank=4))
    before, after = (
        AutoModelForCausalLM.from_pretrained(folder).state_dict()
        for folder in (base, tmp_path / "bc")
    )
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_the_table_counts_a_fallbacks_decision_as_what_it_is(model, agent, tmp_path, monkeypatch):
    """Rewards of failed decisions are another matter; and what was measured is kept."""
    cohort = _few(Trajectories.load(SAMPLE), 3)
    here = list(logged_situations(cohort.split("test"), model, progress="test"))
    rollouts = Rollouts(here, agent, model, SMALL)
    teacher = TeacherAgent()
    teacher.preprocessing = cohort.preprocessing
    measured = Ablation(cohort, rollouts, model, teacher, tmp_path, 0)
    backend = SimpleNamespace(network=None, tokenizer=None)
    asked = SimpleNamespace(provenance={"model": "tiny"})
    n, told = len(here), {}
    monkeypatch.setattr(rollouts, "roll", lambda loaded, asked, step: told)
    expected = []
    for name, dose in (("bc", 0), ("rl", 12)):
        action = (np.arange(n) + dose) % 25
        told = {"action": action, "valid": [0.0] + [1.0] * (n - 1), "value": [-99.0] * n}
        decided = measured.add(name, backend, asked, simulate=True)
        assert decided.provenance == asked.provenance
        log = cohort.split("test")
        walked = agent_probabilities(name, decided, log).probabilities[log.is_decision]
        assert (walked == np.eye(25)[action]).all()
        observations = np.stack([each.observation for each in here])
        expected.append(rollouts.beyond_guideline(observations, action).mean())
        assert measured.scores[-1].value.value == pytest.approx(expected[-1])
        assert measured.scores[-1].valid == pytest.approx(1 - 1 / n)
    gained = measured.scores[-1].value_gained
    assert gained.value == pytest.approx(expected[1] - expected[0])
    assert gained.low < gained.value < gained.high
    monkeypatch.setattr(rollouts, "roll", None)  # would fail if asked again
    again = Ablation(cohort, rollouts, model, teacher, tmp_path, 0)
    again.add("bc", backend, asked, simulate=True)
    assert again.scores[-1].value == measured.scores[-2].value


def test_a_model_that_cannot_call_is_not_asked_on(model, agent, tmp_path, monkeypatch):
    cohort = _few(Trajectories.load(SAMPLE), 3)
    here = list(logged_situations(cohort.split("test"), model, progress="test"))
    rollouts, teacher, asked = Rollouts(here, agent, model, SMALL), TeacherAgent(), []
    teacher.preprocessing = cohort.preprocessing
    measured = Ablation(cohort, rollouts, model, teacher, tmp_path, 0)
    monkeypatch.setattr("sepsis_gym.cli.llm_ablation._AT_ONCE", 8)

    def none_valid(loaded, some, step):
        asked.extend(some)
        return {"action": [0] * len(some), "valid": [0.0] * len(some)}

    monkeypatch.setattr(rollouts, "roll", none_valid)
    backend = SimpleNamespace(network=None, tokenizer=None)
    assert not measured.add("base", backend, None, simulate=True)
    assert len(asked) == 8 < len(here)
    assert measured.scores[-1].valid == 0
    assert measured.scores[-1].value is measured.scores[-1].value_gained is None
    assert stages_table(measured.scores).row_count == 3


@pytest.mark.parametrize("wrong", [["--stays", "1"], ["--truth-patients", "1"]])
def test_a_table_without_intervals_is_refused_before_the_training(wrong, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["llm", "train", "--cohort", SAMPLE, "--out", str(tmp_path / "out"), *wrong])
    assert "need --stays 2 or more" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_all_stages_by_one_command(tmp_path, capsys):
    few = "stays=2 max_tokens=8 reading.steps=2 sft.steps=2 bc.steps=2 "
    few += "rl.steps=2 rl.patients=2 rl.group=2 rl.at_once=4"
    command = ["llm", "train", "--cohort", SAMPLE, "--out", str(tmp_path), "--stays", "8"]
    command += ["--truth-patients", "0"]
    main([*command, "--set", *few.split()])
    told = capsys.readouterr().out
    for row in ("base", "sft", "bc", "rl"):
        assert (tmp_path / row / "model.safetensors").exists()
        assert f"{row}, alone" in told
    assert set(logged(tmp_path / "rl")) >= {
        "train/rewards/valid/mean",
        "train/rewards/simulations/mean",
        "train/rewards/fallback/mean",
        "train/entropy",
    }
    with pytest.raises(SystemExit):
        main([*command, "--set", "sft.steps=3"])
    assert "of another model, cohort, teacher or settings" in capsys.readouterr().err
