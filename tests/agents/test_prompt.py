"""What the model reads, word for word: three made-up patients, and what their dialogues cost."""

import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from agents.llm import LLMAgent, TeacherAgent
from agents.llm import prompt as prompts
from sepsis_gym.agent import prepare
from sepsis_gym.dynamics import Simulation
from sepsis_gym.envs import SepsisReplayEnv
from sepsis_gym.features import FEATURE_INDEX, HIGH, LOW, N_FEATURES, TYPICAL

GOLDEN = Path(__file__).parent / "golden"


def info(step, known, *, aged=(), given=(0, 0, 0.0), static=(67, 1, 3), sofa=6, ventilated=False):
    """One state: ``known`` values by name, ``aged`` hours by name, ``given`` action, mL, dose."""
    state, is_known = TYPICAL.copy(), np.zeros(N_FEATURES, bool)
    for name, value in known.items():
        state[FEATURE_INDEX[name]], is_known[FEATURE_INDEX[name]] = value, True
    hours = np.zeros(N_FEATURES, np.float32)
    for name, age in dict(aged).items():
        hours[FEATURE_INDEX[name]] = age
    action, fluid_ml, dose = given
    return {
        "state": state,
        "known": is_known,
        "age_hours": hours,
        "static": np.array(static, np.float32),
        "ventilated": ventilated,
        "sofa": sofa,
        "previous_action": action,
        "previous_fluid_ml": fluid_ml,
        "previous_norepinephrine_equivalent": dose,
        "step": step,
        "hours": 4 * (step + 1),
    }


def fresh():
    return [info(0, {"meanbp": 71, "heart_rate": 104, "spo2": 96}, static=(34, 0, 0), sofa=2)]


def shock():
    steps = []
    for step, (pressure, lactate) in enumerate(((58, 3.1), (55, 4.4), (57, 5.02), (61, 4.71))):
        labs = {"creatinine": 1.9, "bilirubin_total": 0.4, "ph": 7.214, "platelet": 96}
        state = {"meanbp": pressure, "lactate": lactate, "heart_rate": 131, **labs}
        given = (5 * 3 + step, 400.0 + 100 * step, 0.08 * step)
        aged = {"lactate": 4 * (step == 3), "creatinine": 4 * step}
        steps.append(info(step, state, aged=aged, given=given, sofa=9 + step, ventilated=True))
    return steps


def late():
    steps = []
    for step in range(18):
        state = {"meanbp": 66 + step, "lactate": 6 / (1 + step / 4), "output_4hourly": 120 + step}
        given = (5 * (step < 6) + (step < 9), 250.0 * (step < 6), 0.11 * (step < 9))
        steps.append(info(step, state, given=given, sofa=max(1, 11 - step)))
    return steps


def simulation(present, epistemic):
    """Two candidates; the second's bilirubin and saturation leave what can be measured."""
    values = np.repeat(present["state"][None], 2, axis=0)
    values[1, FEATURE_INDEX["meanbp"]] += 9
    values[1, FEATURE_INDEX["bilirubin_total"]] = -3
    spread = np.stack([values - 12, values + 12], axis=1)
    half = np.array([0.05, 0.061], np.float32)
    return Simulation(
        *(half, half, values, spread, half, np.array([7, 6], np.int8), half / 5, half, half * 4),
        np.array(epistemic, np.float32),
    )


def read_by_the_model(steps, preprocessing):
    past = prompts.Past()
    for earlier in steps[:-1]:
        past.add(earlier)
    present = steps[-1]
    told = prompts.simulation_message([0, 12], simulation(present, (0.08, 0.31)), present, 0.2)
    return "\n\n".join(
        [
            prompts.system_prompt(preprocessing, simulate=True),
            json.dumps(prompts.tools(simulate=True), indent=1),
            prompts.patient_message(present, past),
            json.dumps(json.loads(told), indent=1),
            "",
        ]
    )


@pytest.mark.parametrize("patient", [fresh, shock, late])
def test_the_prompt_is_the_golden_one(trajectories, patient):
    """After a wanted change: SEPSIS_GYM_WRITE_GOLDEN=1 pytest, and read the difference."""
    told = read_by_the_model(patient(), trajectories.preprocessing)
    file = GOLDEN / f"{patient.__name__}.txt"
    if os.environ.get("SEPSIS_GYM_WRITE_GOLDEN"):
        file.write_text(told, encoding="utf-8")
    assert told == file.read_text(encoding="utf-8")


def test_no_impossible_value_is_told_and_thin_support_is():
    present = shock()[-1]
    told = simulation(present, (0.08, 0.31))
    wild = np.where(np.arange(N_FEATURES) % 2, 1e6, -1e6).astype(np.float32)
    told.values[:], told.spread[:] = wild, wild
    inside, outside = json.loads(prompts.simulation_message([0, 12], told, present, 0.2))[
        "candidates"
    ]
    for name, text in inside["after"].items():
        at = FEATURE_INDEX[name]
        value, *_, low, _, high = text.split()
        assert LOW[at] <= float(value) <= HIGH[at]
        assert LOW[at] <= float(low) <= float(high) <= HIGH[at]
    assert prompts.OUTSIDE in outside["support"]
    assert prompts.OUTSIDE not in inside["support"]
    unknown = prompts.simulation_message([0, 12], told, present)
    assert prompts.OUTSIDE not in unknown


@pytest.mark.parametrize(
    ("epistemic", "limit", "said"),
    [
        ((0.31, 0.08), 0.2, "; least risk within the data: fluid 2, vasopressor 2"),
        ((0.31, 0.31), 0.2, "; least risk: fluid 0, vasopressor 0"),
        ((0.31, 0.08), None, "; least risk: fluid 0, vasopressor 0"),
    ],
)
def test_the_least_risk_is_that_of_candidates_the_data_cover(epistemic, limit, said):
    present = shock()[-1]
    told = simulation(present, epistemic)  # the first has less risk
    answer = json.loads(prompts.simulation_message([0, 12], told, present, limit))
    assert answer["in short"].endswith(said)
    alone = Simulation(*(None if part is None else part[:1] for part in vars(told).values()))
    answer = json.loads(prompts.simulation_message([0], alone, present, limit))
    assert "least risk" not in answer["in short"]


def test_schemas_are_strict_bounded_and_in_order():
    def objects(schema):
        if schema.get("type") == "object":
            yield schema
            for inner in schema["properties"].values():
                yield from objects(inner)
        elif schema.get("type") == "array":
            yield from objects(schema["items"])

    tools = prompts.tools(simulate=True)
    names = [tool["function"]["name"] for tool in tools]
    assert names == sorted(names)
    for tool in tools:
        assert tool["function"]["strict"] is True
        for schema in objects(tool["function"]["parameters"]):
            assert list(schema["properties"]) == sorted(schema["properties"]) == schema["required"]
            assert schema["additionalProperties"] is False
            for level in schema["properties"].values():
                if level["type"] == "integer":
                    assert (level["minimum"], level["maximum"]) == (0, 4)


def test_the_wording_has_a_hash_of_its_own(trajectories, monkeypatch):
    preprocessing = trajectories.preprocessing
    told = {prompts.prompt_sha256(preprocessing, simulate=simulate) for simulate in (True, False)}
    monkeypatch.setattr(prompts, "MAX_CANDIDATES", 4)
    monkeypatch.setattr(prompts, "SIMULATION", {"function": {"name": "simulation"}})
    told.add(prompts.prompt_sha256(preprocessing, simulate=True))
    assert len(told) == 3


def walk(trajectories, toy_model, agent):
    """The dialogues of a stay of 18 decisions."""
    position = int(np.flatnonzero(trajectories.n_decisions == 18)[0])
    env = SepsisReplayEnv(trajectories, model=toy_model)
    observation, shown = env.reset(options={"stay_id": int(trajectories.stays.stay_id[position])})
    prepare(agent, env)
    infos, over = [], False
    while not over:
        infos.append(shown)
        action = agent.act(observation, shown)
        observation, _, over, _, shown = env.step(action)
    return infos, agent.transcript


def test_at_step_18_a_decision_costs_a_third_of_a_full_transcript(trajectories, toy_model):
    infos, dialogues = walk(trajectories, toy_model, TeacherAgent())
    assert len(dialogues) == 18
    # the full way: one dialogue, each state told once without history, every turn sent again
    full = list(dialogues[0][:1])
    for shown, dialogue in zip(infos, dialogues, strict=True):
        state = prompts.patient_message(shown, prompts.Past())
        full += [{"role": "user", "content": state}, *dialogue[2:]]
    compact, whole = (len(json.dumps(turns)) for turns in (dialogues[-1], full))
    print(f"{compact} characters against {whole}: {compact / whole:.2f}")
    assert compact <= whole / 3
    longest = max(len(json.dumps(dialogue)) for dialogue in dialogues)
    assert longest <= 1.5 * len(json.dumps(dialogues[6]))  # bounded, not growing with the stay


def test_what_was_sent_is_only_added_to(trajectories, toy_model):
    """So that a server's prefix cache holds all but the newest turns."""
    sent = []

    class Watched(TeacherAgent):
        def __init__(self):
            super().__init__()
            rule = self.backend

            class Backend:
                model, sampling = rule.model, rule.sampling

                def complete(self, messages, tools, *, draw=0):
                    sent.append([json.dumps(tools), *map(json.dumps, messages)])
                    return rule.complete(messages, tools, draw=draw)

            self.backend = Backend()

    _, dialogues = walk(trajectories, toy_model, Watched())
    assert len({(request[0], request[1]) for request in sent}) == 1
    assert len(sent) > len(dialogues)
    for before, after in pairwise(sent):
        if len(after) > len(before):
            assert after[: len(before)] == before


def test_the_transcript_is_written_down_where_asked(trajectories, toy_model, tmp_path):
    file = tmp_path / "dialogues.jsonl"
    _, dialogues = walk(trajectories, toy_model, TeacherAgent(transcript_file=file))
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert [entry["messages"] for entry in entries] == dialogues
    assert [entry["step"] for entry in entries] == list(range(18))
    assert {entry["model"] for entry in entries} == {"rule"}
    assert isinstance(TeacherAgent(), LLMAgent)
