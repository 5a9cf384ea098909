import numpy as np
import pytest

from evaluation.results import Estimate, Row
from evaluation.row_store import RowStore
from evaluation.safety import Rate, SafetyReport
from sepsis_gym.errors import SourceError

RATE = Rate(1 / 3, 7, 0)
SAFETY = SafetyReport(1 / 7, 0.5, RATE, RATE, RATE, {"a": RATE}, {"severe": RATE})
LOST = Estimate(float("nan"), 0.1, 1 / 3, 0, 0, 0, np.int64(3))
ROW = Row("a", "a", "unusable", ("why",), {"wis": LOST}, SAFETY, (1 / 3,) * 25)


def test_a_row_comes_back_to_the_last_bit(tmp_path):
    store = RowStore(tmp_path / "rows", {"gamma": 0.99})
    assert store.read("a", "digest") is None
    assert not (tmp_path / "rows").exists()
    store.write(ROW, "digest")
    assert repr(store.read("a", "digest")) == repr(ROW).replace("np.int64(3)", "3").replace(
        "difference=0, difference_low=0, difference_high=0",
        "difference=0.0, difference_low=0.0, difference_high=0.0",
    )


def test_whatever_a_row_depends_on_makes_another_row(tmp_path):
    store = RowStore(tmp_path, {"gamma": 0.99})
    store.write(ROW, "digest")
    assert store.read("b", "digest") is None
    assert store.read("a", "another") is None
    assert RowStore(tmp_path, {"gamma": 0.9}).read("a", "digest") is None


def test_a_damaged_row_is_named(tmp_path):
    store = RowStore(tmp_path, {})
    store.write(ROW, "digest")
    (file,) = tmp_path.iterdir()
    file.write_text(file.read_text()[:-30])
    with pytest.raises(SourceError, match=rf"{file.name}: is damaged.*delete it"):
        store.read("a", "digest")
