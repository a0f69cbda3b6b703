"""The picture: there, readable, and honest about what was recorded."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image
from matplotlib.figure import Figure

from policy_server.errors import RunDirError
from policy_server.metrics import plot
from policy_server.metrics.plot import plot_run, short
from policy_server.metrics.recorder import Recorder
from policy_server.metrics.run_dir import prepare_run_dir


def record(folder: Path, policies: list[str], count: int, losses: tuple[str, ...]) -> None:
    prepare_run_dir(folder, {"algorithm": "PPO", "environment": {"env": "arena"}})
    rng = np.random.default_rng(0)
    with Recorder(folder, ["jsonl"]) as recorder:
        for i in range(1, count + 1):
            values = {"episode_return_mean": 2.0 * i, "steps_per_s": 5.0, "dropped/x": 1}
            for name in policies:
                values |= {f"{name}/version": i, f"{name}/episode_return_mean": float(i)}
                values |= {f"{name}/{loss}": rng.normal() for loss in losses}
            if i > count // 2:
                values["evaluation/episode_return_mean"] = float(i // 4)
            recorder.record(3000 * i, values)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    drawn: list[Figure] = []
    real = Figure.savefig

    def savefig(self: Figure, *args: object, **kwargs: object) -> None:
        drawn.append(self)
        real(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    return drawn


LOSSES = ("kl", "policy_loss", "grad_norm", "entropy", "vf_loss")


def test_returns_left_losses_right(tmp_path: Path, figures: list[Figure]) -> None:
    record(tmp_path, ["red", "blue"], 40, LOSSES)
    path = plot_run(tmp_path)
    assert path == tmp_path / "plot.png"
    pixels = image.imread(path)
    assert pixels.shape[0] > 500
    assert pixels.std() > 0.01
    (figure,) = figures
    assert figure.get_suptitle() == "PPO on arena"
    returns, *panels = figure.axes
    assert [axes.get_title("left") for axes in panels] == [
        "policy loss",
        "vf loss",
        "entropy",
        "kl",
    ]
    labels = returns.get_legend_handles_labels()[1]
    assert labels == ["red", "blue", "sum", "evaluation"]
    lines = {line.get_label(): line for line in returns.lines}
    np.testing.assert_array_equal(lines["red"].get_xdata(), 3000 * np.arange(1, 41))
    np.testing.assert_array_equal(lines["red"].get_ydata(), np.arange(1, 41))
    np.testing.assert_array_equal(lines["sum"].get_ydata(), 2.0 * np.arange(1, 41))
    # Every evaluation once, though each record repeats the last one.
    marks = [line for line in returns.lines if line.get_marker() == "D" and len(line.get_xdata())]
    np.testing.assert_array_equal(marks[0].get_ydata(), np.arange(5, 11))


def test_one_policy_has_no_sum_and_other_algorithms_their_own_losses(tmp_path, figures) -> None:
    record(tmp_path / "run", ["only"], 3, ("td_error", "q_mean"))
    out = tmp_path / "elsewhere.png"
    assert plot_run(tmp_path / "run", out) == out
    assert out.read_bytes().startswith(b"\x89PNG")
    returns, *panels = figures[0].axes
    assert "sum" not in returns.get_legend_handles_labels()[1]
    assert [axes.get_title("left") for axes in panels] == ["td error", "q mean"]


@pytest.mark.parametrize("policies", [[], ["a"], [f"p{i}" for i in range(12)]])
def test_hardly_anything_and_a_lot(tmp_path: Path, policies: list[str]) -> None:
    record(tmp_path, policies, 1, LOSSES)
    assert plot_run(tmp_path).stat().st_size > 1000


def test_a_loss_that_broke_leaves_gaps_not_errors(tmp_path: Path) -> None:
    prepare_run_dir(tmp_path, None)
    with Recorder(tmp_path, ["jsonl"]) as recorder:
        for i in range(50):
            recorder.record(
                i, {"p/version": i, "p/kl": math.nan if i % 2 else math.inf, "p/x": 1.0}
            )
    assert plot_run(tmp_path).exists()


def test_errors_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="there are no metrics here"):
        plot_run(tmp_path)
    record(tmp_path / "run", ["a"], 2, ())
    with pytest.raises(RunDirError, match="the picture cannot be written: No such file"):
        plot_run(tmp_path / "run", tmp_path / "none" / "x.png")


def test_smoothing_is_a_centred_mean() -> None:
    values = list(np.random.default_rng(1).normal(size=31))
    expected = [np.mean(values[max(0, i - 2) : i + 3]) for i in range(31)]
    np.testing.assert_allclose(plot._smooth(values, 5), expected)
    np.testing.assert_allclose(plot._smooth(values, 4), expected)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (12500, "12.5k"), (3e6, "3M"), (2.5e9, "2.5G"), (-1500, "-1.5k")],
)
def test_short_numbers(number: float, text: str) -> None:
    assert short(number) == text
