"""The leaderboard's file: read, extended, refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from evaluation.leaderboard import Entry, load_leaderboard, save_leaderboard
from evaluation.truth import Measured
from sepsis_gym.errors import SourceError

SHIPPED = Path(__file__).parents[2] / "benchmarks" / "leaderboard.json"


def entry(agent, truth, cohort="c"):
    about = {"source": "made up", "content_hash": cohort}
    figures = {"truth": Measured(truth, truth - 1, truth + 1)}
    return Entry(agent, about, 3, figures, "ok", {"gamma": 0.9}, "default", {"numpy": "2"})


def test_entries_come_back_best_first_and_are_replaced_by_newer_ones(tmp_path):
    file = tmp_path / "board.json"
    save_leaderboard([entry("a", 1.0), entry("b", 2.0)], file)
    assert load_leaderboard(file) == [entry("b", 2.0), entry("a", 1.0)]
    save_leaderboard([entry("a", 3.0), entry("a", 0.0, cohort="d")], file)
    assert load_leaderboard(file) == [
        entry("a", 3.0), entry("b", 2.0), entry("a", 0.0, cohort="d")
    ]  # fmt: skip
    before = file.read_bytes()
    save_leaderboard([], file)
    assert file.read_bytes() == before


def test_an_entry_of_more_seeds_stays(tmp_path):
    file = tmp_path / "board.json"
    save_leaderboard([entry("a", 1.0)], file)
    save_leaderboard([replace(entry("a", 9.0), seeds=1)], file)
    assert load_leaderboard(file) == [entry("a", 1.0)]
    save_leaderboard([replace(entry("a", 2.0), seeds=4)], file)
    assert load_leaderboard(file) == [replace(entry("a", 2.0), seeds=4)]


def test_what_is_no_leaderboard_is_refused(tmp_path):
    file = tmp_path / "board.json"
    save_leaderboard([entry("a", 1.0), entry("b", 2.0)], file)
    sound = json.loads(file.read_text())
    for broken, told in (
        ("{", "is no leaderboard"),
        (sound | {"format_version": 9}, "format_version 9"),
        (sound | {"entries": sound["entries"] * 2}, "stands twice"),
        (sound | {"entries": [sound["entries"][0] | {"mood": 1}]}, "'mood'"),
        (sound | {"entries": [{"agent": "a"}]}, "cohort"),
        (sound | {"entries": [sound["entries"][0] | {"seeds": "many"}]}, "seeds"),
    ):
        file.write_text(broken if isinstance(broken, str) else json.dumps(broken))
        with pytest.raises(SourceError, match=told):
            load_leaderboard(file)
        with pytest.raises(SourceError, match=told):
            save_leaderboard([entry("c", 0.0)], file)


def test_the_shipped_leaderboard_parses_and_says_where_its_entries_come_from(tmp_path):
    entries = load_leaderboard(SHIPPED)
    assert {"clinicians", "random", "guideline"} <= {e.agent for e in entries}
    for each in entries:
        assert {"source", "content_hash", "n_stays"} <= set(each.cohort), each.agent
        assert "sepsis-gym" in each.versions, each.agent
        truth = each.figures["truth"]
        assert truth.low <= truth.value <= truth.high, each.agent
    copy = tmp_path / "board.json"
    copy.write_bytes(SHIPPED.read_bytes())
    save_leaderboard([replace(entries[0])], copy)
    assert copy.read_bytes() == SHIPPED.read_bytes()
