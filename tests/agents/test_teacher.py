import json
from dataclasses import replace

import numpy as np
import pytest

from agents import agent_digest, load_agent, make_agent, save_agent
from agents.llm.prompt import OUTSIDE
from agents.llm.teacher import RuleBackend, cost
from evaluation.target import agent_probabilities
from sepsis_gym.actions import decode_action
from sepsis_gym.agent import prepare
from sepsis_gym.envs import SepsisEnv


def candidate(fluid, vasopressor, risk, pressure, support="models differ by 0.05 z"):
    after = {"meanbp": f"{pressure} mmHg (+1), 50 to 90"}
    told = {"risk of death within 90 days": f"{risk}%", "after": after, "support": support}
    return {"iv_fluid": fluid, "vasopressor": vasopressor, **told}


def test_support_comes_first_then_risk_with_the_map_target_then_the_lesser_dose():
    best = candidate(1, 1, 10.0, 66)
    for worse in (
        candidate(1, 1, 5.0, 66, f"{OUTSIDE}; models differ by 0.4 z"),
        candidate(1, 1, 12.0, 66),
        candidate(1, 1, 8.0, 60),  # 5 mmHg short weigh as much as 5 points of risk
        candidate(2, 1, 10.0, 66),
    ):
        assert cost(best) < cost(worse)


def user(running, lines):
    fluid, vasopressor = running
    return {
        "role": "user",
        "content": f"Hour 8.\nRunning: fluid 100 mL (level {fluid}), norepinephrine equivalent "
        f"0.10 ug/kg/min (level {vasopressor})\nNow:\n" + "\n".join(lines),
    }


@pytest.mark.parametrize(
    ("running", "lines", "guided"),
    [
        ((0, 0), ["- meanbp 58 mmHg", "- lactate 4.1 mmol/L"], (1, 1)),
        ((2, 3), ["- meanbp 80 mmHg", "- lactate 1.1 mmol/L"], (1, 2)),
        ((0, 4), ["- meanbp 50 mmHg"], (1, 4)),
        ((0, 0), ["- meanbp 75 mmHg", "- lactate 3 mmol/L"], (1, 0)),
        ((2, 3), [], (2, 3)),
        ((2, 3), ["- lactate 3 mmol/L"], (2, 3)),
        ((3, 2), ["- meanbp 58 mmHg", "- fio2 0.59 fraction"], (3, 3)),
        ((3, 2), ["- meanbp 58 mmHg", "- fio2 0.6 fraction"], (0, 3)),
        ((3, 2), ["- meanbp 80 mmHg", "- fio2 1 fraction"], (0, 1)),
        ((3, 2), ["- fio2 0.7 fraction"], (0, 2)),
    ],
)
def test_the_first_proposal_follows_the_guidance(running, lines, guided):
    tools = [{"function": {"name": "prescription"}}]
    reply = RuleBackend().complete([{"role": "system"}, user(running, lines)], tools)
    assert json.loads(reply.tool_calls[0].arguments) == {
        "iv_fluid": guided[0],
        "vasopressor": guided[1],
    }


def decide(toy_model, tell):
    """One decision of the teacher; ``tell`` gives what the simulator says by [k] fluid_ml."""
    simulate = toy_model.simulate

    def told(patients, fluid_ml, dose):
        return replace(simulate(patients, fluid_ml, dose), **tell(fluid_ml))

    toy_model.simulate = told
    env = SepsisEnv(toy_model)
    observation, info = env.reset(seed=0)
    agent = make_agent("teacher", support_limit=0.2)
    prepare(agent, env)
    return agent, agent.act(observation, info)


def test_it_proposes_refines_and_takes_the_best_it_saw(toy_model):
    def less_risk_with_fluid(fluid_ml):
        return {"mortality_90d": 0.5 - fluid_ml / 1000, "epistemic": 0 * fluid_ml}

    agent, action = decide(toy_model, less_risk_with_fluid)
    (dialogue,) = agent.transcript
    assert [turn["role"] for turn in dialogue[2:]] == ["assistant", "tool"] * 2 + ["assistant"]
    answers = [json.loads(turn["content"]) for turn in dialogue if turn["role"] == "tool"]
    seen = [candidate for answer in answers for candidate in answer["candidates"]]
    fluid, vasopressor = decode_action(action)
    chosen = min(seen, key=cost)
    assert (chosen["iv_fluid"], chosen["vasopressor"]) == (fluid, vasopressor)
    assert fluid == max(candidate["iv_fluid"] for candidate in seen) > 0
    assert all(turn["content"] for turn in dialogue)
    assert (agent.counts["simulations"], agent.counts["repairs"]) == (2, 0)


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["- meanbp 58 mmHg"], "MAP is 58, below the target of 65; lactate not known: hypo"),
        (["- meanbp 70 mmHg", "- lactate 3 mmol/L"], "at the target of 65; lactate 3, high: hypo"),
        (["- meanbp 75.5 mmHg", "- lactate 2 mmol/L"], "above 75; lactate 2, not high: no hypo"),
        (["- meanbp 75 mmHg"], "at the target of 65; lactate not known: no hypo"),
        ([], "MAP is not known; lactate not known: hypoperfusion not known; FiO2 not known; "),
        (["- meanbp 58 mmHg", "- fio2 0.6 fraction"], ": hypoperfusion; FiO2 0.6, high; "),
    ],
)
def test_what_the_doses_follow_from_is_said_before_each_of_them(toy_model, lines, said):
    tools = [{"function": {"name": "prescription"}}]
    reply = RuleBackend().complete([{"role": "system"}, user((2, 3), lines)], tools)
    assert said in reply.content
    assert reply.content.endswith("running fluid 2, vasopressor 3. By the guidance.")
    agent, _ = decide(toy_model, lambda fluid_ml: {"epistemic": 0 * fluid_ml})
    _, patient, proposed, *_, answer, last = (turn["content"] for turn in agent.transcript[0])
    assert last.partition(" Weighed")[0] in proposed
    assert json.loads(answer)["now"] in patient


def test_it_keeps_off_what_the_data_do_not_cover(toy_model):
    def doubtful_where_good(fluid_ml):
        good = fluid_ml > 0
        return {
            "mortality_90d": np.where(good, 0.1, 0.4),
            "epistemic": np.where(good, 0.5, 0.1),
        }

    _, action = decide(toy_model, doubtful_where_good)
    assert decode_action(action)[0] == 0


def test_it_is_an_agent_like_others(trajectories, toy_model, tmp_path):
    log = trajectories.select(np.arange(4))
    answers = {}
    for workers in (1, 3):
        agent = make_agent("teacher", workers=workers)
        answers[workers] = agent_probabilities("teacher", agent, log, toy_model).probabilities
        assert agent.counts["decisions"] == log.n_decisions.sum()
        assert agent.counts["repairs"] == agent.counts["fallbacks"] == 0
    np.testing.assert_array_equal(answers[1], answers[3])
    save_agent(agent, tmp_path / "teacher")
    assert agent_digest(load_agent(tmp_path / "teacher")) == agent_digest(agent)
    assert agent_digest(make_agent("teacher", support_limit=0.2)) != agent_digest(agent)
