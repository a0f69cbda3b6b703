"""A run as one picture: returns on the left, what the learners say on the right."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policy_server.errors import RunDirError
from policy_server.metrics.history import Record, policies_of, read_history, series
from policy_server.metrics.run_dir import PLOT, SETTINGS, read_settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind people can tell apart; black is for the sum.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#7F7F7F")
INK, FAINT = "#222222", "#DDDDDD"
PANELS = 4
FEW = 30  # points; fewer are drawn as they are, with a dot each
LOSSES = ("policy_loss", "vf_loss", "entropy", "kl")
"""Drawn where they exist; other metrics of the learner fill what is left."""

_NOT_LEARNING = {
    "version", "episodes", "episode_return_mean", "episode_length_mean", "queued", "lanes",
}  # fmt: skip


def plot_run(run_dir: str | Path, out: str | Path | None = None) -> Path:
    """Draws a run's metrics as a PNG.

    Args:
        out: the picture; None: `plot.png` in the run folder.

    Returns:
        The picture's path.

    Raises:
        RunDirError: there are no metrics, or the picture cannot be written.
    """
    # Without pyplot: no global state, no window system, any thread.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    run_dir = Path(run_dir)
    out = run_dir / PLOT if out is None else Path(out)
    history = read_history(run_dir)
    policies = policies_of(history)
    style: Any = {
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.edgecolor": "#999999",
        "text.color": INK,
    }
    with rc_context(style):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)  # inches
        figure = Figure(figsize=(12, 5.6), dpi=130, layout=layout)
        FigureCanvasAgg(figure)
        grid = figure.add_gridspec(2, 4, width_ratios=(1, 1, 0.95, 0.95))
        returns = figure.add_subplot(grid[:, :2])
        _draw_returns(returns, history, policies)
        for i, name in enumerate(_learner_metrics(history, policies)):
            panel = figure.add_subplot(grid[i // 2, 2 + i % 2])
            _draw_learning(panel, history, policies, name)
        figure.suptitle(
            _title(run_dir), x=0.01, ha="left", fontsize=14, fontweight="bold", color=INK
        )
        try:
            figure.savefig(out, format="png")
        except OSError as error:
            raise RunDirError(f"{out}: the picture cannot be written: {error.strerror}.") from None
    return out


def _title(run_dir: Path) -> str:
    if not (run_dir / SETTINGS).is_file():
        return run_dir.name
    settings = read_settings(run_dir)
    environment: Any = settings.get("environment", {})
    env = environment.get("env") if isinstance(environment, dict) else None
    return f"{settings.get('algorithm', '?')} on {env or 'external simulators'}"


def _draw_returns(axes: Axes, history: list[Record], policies: Sequence[str]) -> None:
    several = len(policies) > 1
    for name, colour in _coloured(policies):
        x, y = series(history, f"{name}/episode_return_mean")
        axes.plot(x, y, color=colour, lw=1.6, label=name, **_dots(y))
        x, y = series(history, f"evaluation/{name}/episode_return_mean")
        _draw_evaluation(axes, x, y, colour)
    if several or not policies:
        label = "sum" if several else "all policies"
        x, y = series(history, "episode_return_mean")
        axes.plot(x, y, color=INK, lw=2.2, label=label)
        x, y = series(history, "evaluation/episode_return_mean")
        _draw_evaluation(axes, x, y, INK)
    if any("evaluation/episode_return_mean" in record for record in history):
        # One entry for all evaluations, in the ink of the sum.
        axes.plot([], [], ls="none", marker="D", ms=5, mfc="white", mec=INK, label="evaluation")
    _dress(axes, history, "episode return, mean of the newest episodes")
    axes.title.set_fontsize(11)
    axes.set_xlabel("environment steps")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="best", frameon=False, ncols=1 + len(policies) // 10)


def _draw_evaluation(axes: Axes, x: Sequence[float], y: Sequence[float], colour: str) -> None:
    # A record repeats the last evaluation until there is a new one: draw each one once.
    new = [i for i in range(len(y)) if i == 0 or y[i] != y[i - 1]]
    axes.plot(
        [x[i] for i in new], [y[i] for i in new],
        ls="none", marker="D", ms=5, mfc="white", mec=colour, mew=1.3, zorder=3,
    )  # fmt: skip


def _learner_metrics(history: list[Record], policies: Sequence[str]) -> list[str]:
    found: dict[str, None] = {}
    for record in history:
        for key in record:
            policy, _, metric = key.partition("/")
            if policy in policies and metric not in _NOT_LEARNING:
                found[metric] = None
    first = [name for name in LOSSES if name in found]
    return [*first, *(name for name in found if name not in LOSSES)][:PANELS]


def _draw_learning(axes: Axes, history: list[Record], policies: Sequence[str], metric: str) -> None:
    everything: list[float] = []
    for name, colour in _coloured(policies):
        x, y = series(history, f"{name}/{metric}")
        everything += y
        if len(y) < FEW:
            axes.plot(x, y, color=colour, lw=1.4, **_dots(y))
        else:
            axes.plot(x, y, color=colour, lw=0.7, alpha=0.25)
            axes.plot(x, _smooth(y, len(y) // 25), color=colour, lw=1.4)
    # The first updates often dwarf all others: show what nearly all of the points are about.
    if len(everything) >= FEW:
        low, high = np.percentile(everything, (1, 99))
        margin = 0.1 * (high - low) or abs(high) * 0.1 or 1.0
        axes.set_ylim(low - margin, high + margin)
    _dress(axes, history, metric.replace("_", " "))


def _smooth(values: Sequence[float], width: int) -> np.ndarray:
    """Centred moving mean over `width` values (made odd), over fewer at the ends."""
    half = max(1, width // 2)
    total = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    return np.asarray((total[high] - total[low]) / (high - low))


def _dots(values: Sequence[float]) -> dict[str, Any]:
    """A line through one point cannot be seen."""
    return {"marker": "o", "ms": 3} if len(values) < FEW else {}


def _coloured(policies: Sequence[str]) -> list[tuple[str, str]]:
    return [(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(policies)]


def _dress(axes: Axes, history: list[Record], title: str) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.set_title(title, loc="left")
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(color="#999999", labelcolor=INK)
    axes.set_xlim(0, 1.02 * max(1, history[-1]["env_steps"]))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda steps, _: short(steps)))


def short(number: float) -> str:
    """12500 -> "12.5k", 3e6 -> "3M"."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.3g}"
