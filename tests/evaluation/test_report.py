import csv
import json
import re
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("jinja2", reason="the report extra is not installed")
pytest.importorskip("matplotlib", reason="the report extra is not installed")

from evaluation import EvaluationConfig, Results
from evaluation.behavior import BehaviorConfig
from evaluation.evaluate import Evaluation
from evaluation.report import write_report
from evaluation.report.cells import printed
from evaluation.report.tables import METHODS, build_tables
from evaluation.truth import Measured, TrueValue
from sepsis_gym.actions import N_ACTIONS
from tests.browser import CHROMIUM, chromium

SECTIONS = ["values", "intervals", "weights", "actions", "safety", "behavior"]
SECTIONS += ["truth", "sensitivity", "provenance"]


class Constant:
    """Gives every state the same probabilities."""

    def __init__(self, probabilities) -> None:
        self.probabilities = np.asarray(probabilities, float)

    def reset(self) -> None:
        pass

    def act(self, observation, info) -> int:
        return int(self.probabilities.argmax())

    def action_probabilities(self, observation, info) -> np.ndarray:
        return self.probabilities

    def batch_probabilities(self, observations) -> np.ndarray:
        return np.tile(self.probabilities, (len(observations), 1))


@pytest.fixture(scope="module")
def results(trajectories, tmp_path_factory) -> Results:
    """A trusted row, an untrusted one, one without support and a true value; from the file."""
    simple = BehaviorConfig(candidates=("neighbors", "logistic"))
    config = EvaluationConfig(resamples=20, softening=0.0, behavior=simple)
    evaluation = Evaluation(trajectories, config)
    every = Measured(4.0, 3.5, 4.5)
    truth = TrueValue(every, every, every, every, every, every, 0.1, 100)
    logged = evaluation.clinicians()
    agents = {"<b>even</b>": np.full(N_ACTIONS, 1 / N_ACTIONS), "never": np.eye(N_ACTIONS)[4]}
    scored = [evaluation.row(name, Constant(chosen)) for name, chosen in agents.items()]
    assert scored[1].weights.support_lost_at is not None
    better = replace(logged.estimates["mean_return"], value=7, difference=2, difference_low=1)
    better = replace(better, difference_high=3, low=6, high=8)
    trusted = replace(
        scored[0],
        agent="trusted",
        policy="trusted",
        trust="ok",
        estimates=dict.fromkeys(METHODS, better),
        truth=truth,
    )
    saved = tmp_path_factory.mktemp("results")
    evaluation.results([logged, trusted, *scored]).save(saved)
    return Results.load(saved)


@pytest.fixture(scope="module")
def folder(results, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    assert write_report(results, folder) == folder / "report.html"
    return folder


def test_rows_that_are_not_trusted_are_grey_and_only_trusted_differences_are_bold(folder):
    page = (folder / "report.html").read_text()
    table = page[page.index('<table class="values">') :]
    rows = re.findall(r'<tr class="(\w+)">(.*?)</tr>', table[: table.index("</table>")], re.S)
    assert [trust for trust, _ in rows] == ["ok", "ok", "unusable", "unusable"]
    assert [row.count('class="bold"') for _, row in rows] == [0, len(METHODS), 0, 0]
    assert "support lost at step" in page
    assert page.count("Research software, never for patient care.") >= 2


def test_names_are_escaped_and_nothing_comes_from_elsewhere(folder):
    page = (folder / "report.html").read_text()
    assert "<b>even" not in page
    assert "&lt;b&gt;even&lt;/b&gt;" in page
    assert "<script" not in page
    outside = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!#|data:)([^"')\s>]+)""", page)
    assert outside == []


def test_tables_are_the_same_numbers_in_every_format(results, folder):
    for name, table in build_tables(results).items():
        plain = json.loads((folder / f"table_{name}.json").read_text())
        with open(folder / f"table_{name}.csv", newline="") as file:
            read = list(csv.DictReader(file))
        assert len(plain["rows"]) == len(read) == len(table.lines) > 0
        for line, row in zip(plain["rows"], read, strict=True):
            assert {k: "" if v is None else str(v) for k, v in line.items()} == {
                k: row[k] for k in line
            }
        latex = (folder / f"table_{name}.tex").read_text()
        body = latex[latex.index("\\midrule") : latex.index("\\bottomrule")]
        rows = body.split("\\\\\n")[:-1]
        assert len(rows) == len(table.lines)
        ampersands = {len(re.findall(r"(?<!\\)&", row)) for row in rows}
        assert ampersands == {len(table.columns) - 1}
    values = (folder / "table_values.tex").read_text()
    assert values.count("\\textbf{7.00}") == len(METHODS)
    assert "\\textcolor{gray}{\\textless{}b" in values


def test_estimates_are_held_against_the_truth(results):
    (line,) = build_tables(results)["errors"].lines
    assert line.cells[:4] == ("trusted", 4.0, pytest.approx(3.0), "no")
    assert "errors" not in build_tables(
        replace(results, rows=tuple(replace(row, truth=None) for row in results.rows))
    )


def test_numbers_that_do_not_exist_are_dashes():
    assert printed(float("nan"), "number") == printed(None, "percent") == "–"  # noqa: RUF001
    assert printed(-0.5, "number") == "\N{MINUS SIGN}0.50"
    assert printed(0.1234, "percent") == "12.3%"


def test_the_same_results_give_the_same_bytes(results, folder, tmp_path):
    write_report(results, tmp_path)
    for path in folder.iterdir():
        assert path.read_bytes() == (tmp_path / path.name).read_bytes(), path.name


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_every_section_and_asks_the_network_for_nothing(folder):
    page = folder / "report.html"
    with chromium() as browser:
        for width in (1280, 390):
            browser.open(page, width)
            shown = browser.evaluate(
                "[...document.querySelectorAll('section')]"
                ".filter(s => s.offsetHeight > 100).map(s => s.id).join(' ')"
            )
            assert shown.split() == SECTIONS
            assert browser.evaluate("document.querySelectorAll('.picture svg').length") == 19
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            asked = [each["request"]["url"] for each in browser.told("Network.requestWillBeSent")]
            assert [url for url in asked if not url.startswith("data:")] == [page.as_uri()]
            complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
            assert browser.told(*complaints) == []
