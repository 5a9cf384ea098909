import sys

import gymnasium as gym
import numpy as np
import pytest

from sepsis_gym.dynamics import End
from sepsis_gym.envs import SepsisEnv, SepsisReplayEnv
from sepsis_gym.features import FEATURE_INDEX

NAMES = ("SepsisWM-v0", "SepsisPhysio-v0", "SepsisReplay-v0")


@pytest.fixture
def figure():
    pytest.importorskip("matplotlib", reason="the figures extra is not installed")
    from sepsis_gym.envs import figure

    return figure


def played(env, steps, seed=0):
    """The environment after some steps, fewer where the stay ends."""
    env.reset(seed=seed)
    for action in range(steps):
        if env.step(action % 25)[2]:
            break
    return env


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_is_an_image_of_fixed_size_that_follows_the_stay(name, figure):
    env = gym.make(name, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    env.step(6)
    second = env.render()
    for frame in (first, second):
        assert frame.shape == figure.FRAME_SHAPE
        assert frame.dtype == np.uint8
        assert len(np.unique(frame)) > 20
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, env.render())


def test_drawing_leaves_pyplot_and_the_settings_alone(toy_model, figure):
    import matplotlib
    from matplotlib import pyplot

    before, open_figures = dict(matplotlib.rcParams), pyplot.get_fignums()
    played(SepsisEnv(toy_model, render_mode="rgb_array"), 3).render()
    assert dict(matplotlib.rcParams) == before
    assert pyplot.get_fignums() == open_figures


def test_it_looks_the_same_whatever_style_the_user_likes(toy_model, figure):
    from matplotlib import style

    env = played(SepsisEnv(toy_model, render_mode="rgb_array"), 3)
    frame = env.render()
    with style.context("dark_background"):
        np.testing.assert_array_equal(env.render(), frame)


def test_the_figure_draws_what_was_measured_held_and_given(trajectories, toy_model, figure):
    replay = SepsisReplayEnv(trajectories, model=toy_model, render_mode="rgb_array")
    env = played(replay, 30, seed=2)
    history = env._history
    drawn = figure.Figure()
    figure.draw_stay(drawn, history, env.preprocessing)
    axes = {axis.get_title(loc="left").split(",")[0]: axis for axis in drawn.axes}
    lactate = FEATURE_INDEX["lactate"]
    measured = np.array([state.patients.measured[0, lactate] for state in history])
    known = [env.preprocessing.known(s.patients.age)[0, lactate] for s in history]
    value = np.array([state.patients.values[0, lactate] for state in history])
    _, held, dots = axes["Lactate"].get_lines()[:3]
    assert 0 < measured.sum() < len(history)
    np.testing.assert_allclose(dots.get_ydata(), np.where(measured, value, np.nan))
    np.testing.assert_allclose(held.get_ydata(), np.where(known, value, np.nan))
    hours = env.preprocessing.step_hours * (1 + np.arange(len(history)))
    np.testing.assert_array_equal(dots.get_xdata(), hours)
    bars = axes["Fluid"].patches[: len(history)]
    given = [state.patients.previous_fluid_ml[0] for state in history]
    np.testing.assert_allclose([bar.get_height() for bar in bars], given)
    texts = " ".join(text.get_text() for text in drawn.texts)
    assert f"SOFA {history[-1].sofa[0]}" in texts
    assert End(history[-1].end[0]).name.lower() in texts
    assert "never for patient care" in texts


def test_a_new_stay_starts_a_new_figure(toy_model, figure):
    env = played(SepsisEnv(toy_model, render_mode="rgb_array"), 5)
    assert len(env._history) == env._state.patients.step[0] + 1
    env.reset()
    assert len(env._history) == 1


def test_without_matplotlib_the_extra_is_named_and_human_prints(toy_model, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "sepsis_gym.envs.figure", raising=False)
    with pytest.raises(ImportError, match=r"sepsis-gym\[figures\]"):
        SepsisEnv(toy_model, render_mode="rgb_array")
    played(SepsisEnv(toy_model, render_mode="human"), 1)
    assert capsys.readouterr().out.count("Charlson") == 2


def test_human_mode_prints_by_itself_where_there_is_no_window(toy_model, monkeypatch, capsys):
    monkeypatch.setenv("MPLBACKEND", "agg")
    env, twin = (SepsisEnv(toy_model, render_mode=mode) for mode in ("human", "ansi"))
    charts = []
    env.reset(seed=0)
    twin.reset(seed=0)
    charts.append(twin.render())
    env.step(7)
    twin.step(7)
    charts.append(twin.render())
    assert env.render() is None
    assert capsys.readouterr().out == "".join(f"{chart}\n\n" for chart in charts)


def test_a_backend_without_its_screen_is_no_reason_to_stop(toy_model, figure, monkeypatch, capsys):
    def fails(**kwargs):
        raise ImportError("Cannot load backend 'TkAgg' which requires the 'tk' framework")

    monkeypatch.setattr("matplotlib.pyplot.figure", fails)
    played(SepsisEnv(toy_model, render_mode="human"), 1)
    assert capsys.readouterr().out.count("Charlson") == 2


@pytest.mark.filterwarnings("ignore:FigureCanvasAgg is non-interactive")
def test_human_mode_keeps_one_window_up_to_date(toy_model, figure, monkeypatch, capsys):
    from matplotlib import pyplot

    pyplot.switch_backend("agg")
    # what an interactive backend's canvas says; the rest of it works without a screen
    monkeypatch.setattr(figure.FigureCanvasAgg, "required_interactive_framework", "any")
    env = SepsisEnv(toy_model, render_mode="human")
    env.reset(seed=0)
    (window,) = pyplot.get_fignums()
    shown = pyplot.figure(window)
    env.step(3)
    assert pyplot.get_fignums() == [window]
    assert any("hour 8" in text.get_text() for text in shown.texts)
    assert capsys.readouterr().out == ""
    env.close()
    env.close()
    assert pyplot.get_fignums() == []


def test_render_needs_a_stay(toy_model):
    for mode in ("ansi", "human"):
        with pytest.raises(gym.error.ResetNeeded):
            SepsisEnv(toy_model, render_mode=mode).render()
