import json

import numpy as np
import pytest

from evaluation.answer_store import AnswerStore, StayAnswers
from sepsis_gym.errors import SourceError

ABOUT = {"agent": "a", "model": "m"}


def answers(seed):
    drawn = np.random.default_rng(seed).dirichlet(np.ones(25), 3)
    return StayAnswers(drawn, {"decisions": 2 + seed})


def test_what_was_kept_comes_back_to_the_last_bit(tmp_path):
    file = tmp_path / "rows" / "answers.jsonl"
    store = AnswerStore(file, ABOUT)
    assert not file.exists()
    for stay in (7, 3):
        store.keep(stay, answers(stay))
    store.keep(5, RuntimeError("gone"))
    again = AnswerStore(file, ABOUT)
    assert list(again.answered) == [7, 3]
    np.testing.assert_array_equal(again.answered[7].probabilities, answers(7).probabilities)
    assert again.answered[3].counts == {"decisions": 5}
    assert again.failed == {5: "gone"}
    assert json.loads(file.read_text().splitlines()[0]) == ABOUT


def test_a_line_cut_off_by_a_kill_is_dropped_and_written_anew(tmp_path):
    file = tmp_path / "answers.jsonl"
    store = AnswerStore(file, ABOUT)
    store.keep(1, answers(1))
    whole = file.read_bytes()
    store.keep(2, answers(2))
    lines = file.read_bytes()
    for end in range(len(whole) - 5, len(lines), 97):
        file.write_bytes(lines[:end])
        torn = AnswerStore(file, ABOUT)
        assert set(torn.answered) == ({1} if end >= len(whole) else set())
        torn.keep(2, answers(2))
        assert 2 in AnswerStore(file, ABOUT).answered


def test_a_file_cut_in_its_first_line_begins_again(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"agent": "a"')
    store = AnswerStore(file, ABOUT)
    store.keep(1, answers(1))
    assert set(AnswerStore(file, ABOUT).answered) == {1}


def test_failures_are_forgotten_on_demand_and_mended_by_an_answer(tmp_path):
    file = tmp_path / "answers.jsonl"
    AnswerStore(file, ABOUT).keep(1, RuntimeError("gone"))
    assert AnswerStore(file, ABOUT, retry_failed=True).failed == {}
    AnswerStore(file, ABOUT).keep(1, answers(1))
    assert AnswerStore(file, ABOUT).failed == {}


def test_damage_and_another_agent_are_told(tmp_path):
    file = tmp_path / "answers.jsonl"
    AnswerStore(file, ABOUT).keep(1, answers(1))
    with pytest.raises(SourceError, match="another agent"):
        AnswerStore(file, {"agent": "b"})
    file.write_text(file.read_text() + "what?\n")
    with pytest.raises(SourceError, match="line 3"):
        AnswerStore(file, ABOUT)
