import pytest

from sepsis_gym.cli import main


def test_the_benchmark_prints_every_row_and_never_fails_on_time(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    main(["benchmark", "env", "--seconds", "0.01", "--envs", "8", "--extra-envs", "8"])
    told = capsys.readouterr().out
    for row in ("single", "64 envs", "256 envs", "8 envs, 2 threads", "SepsisPhysio-v0, single"):
        assert row in told
    assert "KB" in told
    assert "import sepsis_gym" in told
    assert "met" in told or "missed" in told


def test_impossible_settings_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["benchmark", "env", "--seconds", "0"])
    assert "must be positive" in capsys.readouterr().err
