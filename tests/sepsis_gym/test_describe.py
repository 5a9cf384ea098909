import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from sepsis_gym.cli import main
from sepsis_gym.cohort.assemble import AssemblyConfig, RawCohort, assemble
from sepsis_gym.cohort.cells import FEW, WITHHELD, median_cells, wilson_interval, withhold
from sepsis_gym.cohort.describe import Description, Table, describe
from sepsis_gym.cohort.describe_render import to_html, to_text
from sepsis_gym.cohort.flow_svg import flow_svg
from sepsis_gym.dynamics import End
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES
from sepsis_gym.registration import SAMPLE_COHORT
from sepsis_gym.trajectories import Trajectories


def tiny() -> Trajectories:
    """Four stays of three patients, three bins each: two decisions and the final state."""
    raw = np.full((12, N_FEATURES), np.nan, np.float32)
    raw[:, FEATURE_INDEX["heart_rate"]] = np.arange(80, 92)
    raw[[0, 3], FEATURE_INDEX["lactate"]] = 1.5, 2.5
    raw[0, FEATURE_INDEX["creatinine"]] = 5  # renal SOFA 4
    fluid = np.array([10, 0, 40, 100, 60, 0, 0, 0, 0, 0, 1000, 1000], np.float32)
    vasopressor = np.array([0, 0, 0.1, 0, 0, 0, 0, 0, 0, 0.2, 0, 0], np.float32)
    cohort = RawCohort(
        stays={
            "stay_id": np.arange(1, 5),
            "subject_id": np.array([7, 7, 8, 9]),
            "age": np.array([50, 50, 60, 80], np.float32),
            "male": np.array([True, True, False, False]),
            "charlson": np.array([2, 2, 4, 5], np.float32),
            "died_in_hospital": np.array([False, False, False, True]),
            "died_90d": np.array([True, False, False, True]),
            "end": np.array([End.DISCHARGED, End.DISCHARGED, End.HORIZON, End.DIED], np.int8),
        },
        offsets=np.array([0, 3, 6, 9, 12]),
        raw=raw,
        ventilated=np.arange(12) == 4,
        fluid_ml=fluid,
        norepinephrine_equivalent=vasopressor,
        sofa_24h=np.full(12, np.nan, np.float32),
    )
    made = assemble(
        cohort,
        AssemblyConfig(validation_share=0, test_share=0),
        source="four <script>alert(1)</script> & friends",
        credentialed=False,
        flow=(("stays", 9), ("adults & <others>", 6), ("septic", 4)),
        notes={"chart_rows_out_of_range": 3},
    )
    split = np.array(["train", "train", "test", "test"])
    return replace(made, stays=replace(made.stays, split=split))


@pytest.fixture(scope="module")
def tiny_description() -> Description:
    return describe(tiny())


@pytest.fixture(scope="module")
def hidden_description(trajectories: Trajectories) -> Description:
    flow = (("stays", 500), ("adults", 497), ("septic", 100), ("whole", 60))
    manifest = replace(trajectories.manifest, credentialed=True, flow=flow)
    return describe(replace(trajectories, manifest=manifest))


def table(description: Description, title: str) -> Table:
    return next(each for each in description.tables if each.title.startswith(title))


def cells(of: Table, label: str) -> list[str]:
    return next(list(row[1:]) for row in of.rows if row[0] == label)


def test_characteristics(tiny_description):
    stays = table(tiny_description, "Characteristics")
    assert stays.header[1:5] == ("Overall", "Train", "Validation", "Test")
    assert cells(stays, "Stays") == ["4", "2", "-", "2", "2", "2"]
    assert cells(stays, "Patients") == ["3", "1", "-", "2", "2", "2"]
    assert cells(stays, "Decisions") == ["8", "4", "-", "4", "4", "4"]
    assert cells(stays, "Age, years")[:3] == ["55.0 [50.0, 65.0]", "50.0 [50.0, 50.0]", "-"]
    assert cells(stays, "Charlson index")[0] == "3.0 [2.0, 4.2]"
    assert cells(stays, "Male")[:4] == ["2 (50.0%)", "2 (100.0%)", "-", "0 (0.0%)"]
    assert cells(stays, "Ventilated, ever")[:2] == ["1 (25.0%)", "1 (50.0%)"]
    assert cells(stays, "Vasopressor, ever")[0] == "2 (50.0%)"
    # 50, 160, 0 and 2000 mL: the first bin counts as well
    assert cells(stays, "Fluid in total, mL")[0] == "105 [38, 620]"
    assert cells(stays, "Ended by discharge")[0] == "2 (50.0%)"
    assert cells(stays, "Ended by death")[0] == "1 (25.0%)"
    assert cells(stays, "Reached the horizon")[0] == "1 (25.0%)"
    assert cells(stays, "Died in hospital")[4:] == ["0 (0.0%)", "1 (50.0%)"]
    assert cells(stays, "Died by 90 days") == ["2 (50.0%)", "1 (50.0%)", "-", "1 (50.0%)", "", ""]


def test_measured_values_and_how_often_there_are_any(tiny_description):
    values = table(tiny_description, "Measured values")
    assert cells(values, "heart_rate, bpm")[:3] == [
        "85.5 [82.8, 88.2]",
        "82.5 [81.2, 83.8]",
        "-",
    ]
    assert cells(values, "lactate, mmol/L") == [
        "2.00 [1.75, 2.25]",
        "2.00 [1.75, 2.25]",
        "-",
        "-",
        "2.50 [2.50, 2.50]",
        "1.50 [1.50, 1.50]",
    ]
    assert cells(values, "albumin, g/dL") == ["-"] * 6
    how_often = table(tiny_description, "How often")
    assert cells(how_often, "heart_rate, bpm") == ["100.0%", "4 (100.0%)", "0.0%"]
    # 2 of 12 states; held for the rest of their stays, unknown in the other two
    assert cells(how_often, "lactate, mmol/L") == ["16.7%", "2 (50.0%)", "50.0%"]
    assert cells(how_often, "albumin, g/dL") == ["-", "-", "100.0%"]
    assert len([row for row in values.rows if len(row) > 1]) == N_FEATURES


def test_action_grid(tiny_description):
    actions = table(tiny_description, "Actions")
    assert actions.header[1:] == (
        *("none", "up to 0.08 (0.04)", "0.08 to 0.22 (0.13)"),
        *("0.22 to 0.45 (0.27)", "over 0.45 (0.78)"),
    )
    # doses of bins 1 and 2: (0, 0), (40, 0.1); (60, 0), (0, 0); twice (0, 0); twice (1000, 0)
    assert cells(actions, "none") == ["4 (50.0%)", *["0 (0.0%)"] * 4]
    assert cells(actions, "up to 50 (30)")[2] == "1 (12.5%)"
    assert cells(actions, "50 to 180 (85)")[0] == "1 (12.5%)"
    assert cells(actions, "over 530 (946)")[0] == "2 (25.0%)"
    counts = [int(cell.split()[0]) for row in actions.rows for cell in row[1:]]
    assert sum(counts) == tiny().n_decisions.sum()
    assert actions.shade[0][0] == 1
    assert actions.shade[4][0] == pytest.approx(0.5**0.5, abs=1e-3)
    assert actions.shade[0][1] == 0
    assert "mL per 4 h" in actions.footnote
    assert "all 8" in actions.footnote


def test_mortality_by_sofa(tiny_description):
    mortality = table(tiny_description, "90-day mortality")
    # creatinine 5 in the first stay, 0.2 ug/kg/min in the first bin of the last
    assert cells(mortality, "4-5") == ["2", "2", "100.0%", "[34.2%, 100.0%]"]
    assert cells(mortality, "0-1") == ["2", "0", "0.0%", "[0.0%, 65.8%]"]
    assert cells(mortality, "14 or more") == ["-"] * 4


def test_flow_notes_and_source(tiny_description):
    assert tiny_description.flow.rows == (
        ("stays", "9", ""),
        ("adults & <others>", "6", "3"),
        ("septic", "4", "2"),
    )
    fewer = tiny().select(np.array([True, True, True, False]))
    assert describe(fewer).flow.rows[-1] == ("kept in this folder", "3", "1")
    assert cells(table(tiny_description, "Repairs"), "chart rows out of range") == ["3"]
    settings = table(tiny_description, "Source")
    assert cells(settings, "content hash (sha256)") == [tiny().content_hash]
    assert cells(settings, "reward.scheme") == ["shaped"]
    assert "never for patient care" in tiny_description.remarks[0]


def test_wilson_interval_and_decimals():
    assert wilson_interval(1, 2) == pytest.approx((0.0945, 0.9055), abs=1e-4)
    assert wilson_interval(0, 10) == pytest.approx((0, 0.2775), abs=1e-4)
    one = np.array([1])
    assert median_cells([np.array([1234.56])], one, 0) == ["1,235 [1,235, 1,235]"]
    assert median_cells([np.array([7.4, 7.41])], one, 0) == ["7.41 [7.40, 7.41]"]
    assert median_cells([np.array([-0.001, 0.5])], one, 0) == ["0.25 [0.12, 0.37]"]
    assert median_cells([np.array([-0.001, 0.0])], one, 0) == ["0 [0, 0]"]
    assert median_cells([np.array([3, 3])], one, 0) == ["3 [3, 3]"]


def test_small_cells_are_hidden_with_what_would_give_them_away():
    def hide(size, *sums):
        size = np.array(size)
        chosen = [np.array(cells) for cells in sums] or [np.arange(len(size))]
        return withhold(size, size < 10, chosen, 10).tolist()

    assert hide([40, 30, 20]) == [False, False, False]
    assert hide([40, 3, 20]) == [False, True, True]  # 20 goes with 3, else it follows
    assert hide([40, 3, 4, 20]) == [False, True, True, True]  # 3 and 4 make 7, still too few
    assert hide([40, 6, 7, 20]) == [False, True, True, False]
    assert hide([40, 3, 20, 50, 60], [0, 1, 2], [2, 3, 4]) == [False, True, True, True, False]


def test_no_small_cell_of_a_credentialed_cohort_shows(hidden_description, trajectories):
    stays = table(hidden_description, "Characteristics")
    shown = {FEW: 0, WITHHELD: 0, "number": 0}
    for row in stays.rows:
        for cell in row[1:]:
            if cell in shown:
                shown[cell] += 1
            elif cell and "[" not in cell:
                assert int(cell.split()[0].replace(",", "")) >= 10
                shown["number"] += 1
    assert min(shown.values()) > 0
    sizes = [int((trajectories.stays.split == split).sum()) for split in ("validation", "test")]
    assert sizes[0] < 10
    assert cells(stays, "Stays")[2] == FEW
    assert cells(stays, "Age, years")[2] == FEW
    assert cells(stays, "Stays").count(WITHHELD) == 1  # of another split
    for each in (stays, table(hidden_description, "90-day")):
        assert "fewer than 10 stays" in each.footnote
    assert hidden_description.flow.rows == (
        ("stays", "500", ""),
        ("adults", WITHHELD, FEW),
        ("septic", WITHHELD, "397"),
        ("whole", "60", WITHHELD),
    )
    html = to_html(hidden_description)
    assert "<td>&lt;10</td>" in html
    assert not re.search(r"<td[^>]*>\d( \(|</td>)", html.split("Source and settings")[0])


def test_open_cohorts_hide_nothing(tiny_description):
    assert FEW not in to_text(tiny_description)


class Page(HTMLParser):
    """Collects the cells of each table row; complains of tags that do not balance."""

    def __init__(self):
        super().__init__()
        self.open, self.rows, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in ("meta", "rect", "path"):
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data.replace("\xa0", " ")


@pytest.mark.parametrize("name", ["tiny_description", "hidden_description"])
def test_page_and_text_say_what_the_tables_say(name, request):
    description = request.getfixturevalue(name)
    page = Page()
    page.feed(to_html(description))
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe"}
    tables = (description.flow, *description.tables)
    assert page.rows == [list(row) for each in tables for row in (each.header, *each.rows)]
    text = to_text(description, width=250)
    lines = [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]
    for each in tables:
        for row in (each.header, *each.rows):
            assert [cell for cell in row if cell] in lines
        assert each.footnote in " ".join(text.split())


def test_text_fits_a_narrow_terminal_without_breaking_a_number(hidden_description):
    text = to_text(hidden_description, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for row in table(hidden_description, "Characteristics").rows:
        assert all(cell in text for cell in row)


def test_foreign_words_are_escaped(tiny_description):
    html, svg = to_html(tiny_description), flow_svg(tiny_description.flow.rows)
    assert "<script" not in html
    assert "four &lt;script&gt;alert(1)&lt;/script&gt; &amp; friends" in html
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "")
    words = "".join(ElementTree.fromstring(svg).itertext())
    assert "adults & <others>" in words
    assert "n = 6" in words
    assert "Excluded: 3" in words


def test_command_prints_and_writes(capsys, tmp_path):
    main(["cohort", "describe", "--cohort", str(SAMPLE_COHORT)])
    printed = capsys.readouterr().out
    assert "Characteristics of the stays" in printed
    assert "never for patient care" in printed
    out = tmp_path / "out"
    main(["cohort", "describe", "--cohort", str(SAMPLE_COHORT), "--out", str(out)])
    assert printed in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["describe.html", "flow.svg"]
    assert "Figure 1. Cohort flow" in (out / "describe.html").read_text()
    assert ElementTree.parse(out / "flow.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("spoilt", ["cohort", "out"])
def test_command_tells_in_one_line_what_is_wrong(capsys, tmp_path, spoilt):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    cohort, out = (tmp_path, tmp_path / "new") if spoilt == "cohort" else (SAMPLE_COHORT, taken)
    with pytest.raises(SystemExit) as stopped:
        main(["cohort", "describe", "--cohort", str(cohort), "--out", str(out)])
    assert stopped.value.code == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.strip().splitlines()) == 1
    wanted = "a cohort folder?" if spoilt == "cohort" else "is a file; name a folder"
    assert wanted in told.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["taken"]
