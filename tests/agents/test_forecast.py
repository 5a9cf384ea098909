import numpy as np
import pytest

from agents.llm import forecast
from agents.llm import prompt as prompts
from agents.llm.assessment import QUESTIONS
from agents.llm.backend import Reply
from sepsis_gym.envs import SepsisReplayEnv


class Scripted:
    """A backend whose answers are given by the dialogue and the draw."""

    def __init__(self, tokens=None, replies=None):
        self.tokens, self.replies, self.asked = tokens, replies, []

    def next_token(self, messages):
        self.asked.append(messages)
        return self.tokens

    def complete(self, messages, tools, *, draw=0):
        assert not tools
        self.asked.append((messages, draw))
        return Reply(self.replies[draw])


@pytest.mark.parametrize(
    ("tokens", "probability", "malformed"),
    [
        ({"yes": 0.6, "no": 0.2}, 0.75, 0),
        ({"Yes": 0.3, " yes": 0.2, "NO": 0.4, "**no": 0.1}, 0.5, 0),
        ({"no": 0.9}, 0.0, 0),
        ({"no": 0.4, "none": 0.3, "The": 0.3}, 0.0, 0),
        ({"The": 0.9, "yes": 0.1}, 0.5, 1),
        ({"<think>": 1.0}, 0.5, 1),
    ],
)
def test_the_probability_is_that_of_yes_among_the_answers(tokens, probability, malformed):
    told = forecast.ask(Scripted(tokens), [[], []])
    np.testing.assert_allclose(told.probability, [probability] * 2)
    assert told.malformed == 2 * malformed


def test_samples_are_drawn_apart_and_the_unreadable_count_as_one_half():
    backend = Scripted(replies=["Yes.", "no", "I cannot tell", "yes, surely", "None of these"])
    told = forecast.ask(backend, [["a"], ["b"]], samples=5, workers=2)
    np.testing.assert_allclose(told.probability, (2 + 2 / 2) / 5)
    assert told.malformed == 4
    assert sorted((m[0], draw) for m, draw in backend.asked) == [
        (stay, draw) for stay in "ab" for draw in range(5)
    ]


def test_answers_lie_in_the_order_of_the_questions():
    class ByContent(Scripted):
        def next_token(self, messages):
            return {"yes": messages[0] / 100, "no": 1 - messages[0] / 100}

    told = forecast.ask(ByContent(), [[k] for k in range(100)], workers=8)
    np.testing.assert_allclose(told.probability, np.arange(100) / 100)


def test_a_question_tells_what_the_agent_would_see_and_nothing_later(trajectories):
    position = int(np.flatnonzero(trajectories.n_decisions >= 10)[0])
    first = int(trajectories.offsets[position])
    rows = [first, first + 8]
    early, late = forecast.questions(trajectories, rows, "vasopressor_24h")
    env = SepsisReplayEnv(trajectories)
    _, info = env.reset(options={"stay_id": int(trajectories.stays.stay_id[position])})
    past = prompts.Past()
    for _ in range(8):
        past.add(info)
        _, _, _, _, info = env.step(0)
    content = late[1]["content"]
    assert content.startswith(prompts.patient_message(info, past))
    assert content.endswith("Answer yes or no.")
    assert QUESTIONS["vasopressor_24h"] in content
    assert "earlier steps" not in early[1]["content"]


def test_questions_keep_to_the_rows_asked_for(trajectories):
    rows = np.flatnonzero(trajectories.is_decision)[::7].tolist()
    asked = forecast.questions(trajectories, rows, "hospital_mortality")
    assert len(asked) == len(rows)
    hours = [f"Hour {4 * (trajectories.step[row] + 1):.0f} in" for row in rows]
    assert all(
        dialogue[1]["content"].startswith(hour) for dialogue, hour in zip(asked, hours, strict=True)
    )
    assert all(len(dialogue) == 2 for dialogue in asked)
