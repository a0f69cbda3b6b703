"""Results as one picture: how far each figure is from its target, and the curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policy_server.bench.conditions import Conditions
from policy_server.bench.figure import Figure, Result, Spread, number
from policy_server.bench.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind people can tell apart.
MET, MISSED, INK, FAINT = "#009E73", "#D55E00", "#222222", "#DDDDDD"
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
HALF_A_DECADE = 3.2
ABREAST = 2
"""Curves in a row."""


def draw(path: Path, results: Sequence[Result], plan: Plan, conditions: Conditions) -> None:
    """Writes a PNG."""
    # Without pyplot: no global state, no window system.
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Page
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    judged = [
        (result.work, figure)
        for result in results
        for figure in result.figures
        if figure.target is not None
    ]
    curves = [(label, points) for result in results for label, points in result.curves.items()]
    rows = math.ceil(len(curves) / ABREAST)
    height = 1.6 + 0.3 * len(judged) + 2.6 * rows
    style: Any = {"font.size": 9, "axes.edgecolor": "#999999", "text.color": INK}
    with rc_context(style):
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08)  # inches
        page = Page(figsize=(11, height), dpi=110, layout=layout)
        FigureCanvasAgg(page)
        # Two halves, each with a layout of its own: the curves need no room for long names.
        ratios = [0.3 * len(judged) + 0.8, 2.6 * rows][: 2 if rows else 1]
        halves = page.subfigures(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0]
        _draw_figures(halves[0].subplots(), judged)
        for i, (label, points) in enumerate(curves):
            axes = halves[1].add_subplot(rows, ABREAST, i + 1)
            _draw_curve(axes, label, points, LINES[i % len(LINES)])
        page.suptitle(
            "policy-server bench", x=0.01, ha="left", fontsize=14, fontweight="bold", color=INK
        )
        page.supxlabel(
            f"{conditions.date}; {conditions.machine}; {plan.caption}", fontsize=8, color="#777777"
        )
        page.savefig(path, format="png")


def _merit(figure: Figure, value: float) -> float:
    """Times as good as asked for: 1 is on target, 2 twice as good, whichever way good is."""
    assert figure.target is not None
    bound = figure.target.bound
    return value / bound if figure.target.at_least else bound / max(value, bound * 1e-3)


def _draw_figures(axes: Axes, judged: Sequence[tuple[str, Figure]]) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    labels = []
    for row, (work, figure) in enumerate(judged):
        verdict = Spread.of(figure.verdicts)
        merits = sorted(_merit(figure, value) for value in (verdict.low, verdict.high))
        shown = [min(max(m, 1 / HALF_A_DECADE), HALF_A_DECADE) for m in merits]
        middle = min(max(_merit(figure, verdict.median), 1 / HALF_A_DECADE), HALF_A_DECADE)
        colour = MET if figure.met else MISSED
        axes.plot(shown, [row, row], color=colour, lw=5, alpha=0.3, solid_capstyle="round")
        axes.plot([middle], [row], "o", color=colour, ms=7)
        unit = f" {figure.unit}" if figure.limit is None else ""
        text = f"{number(verdict.median)}{unit}   (target {figure.target}{unit})"
        axes.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), va="center")
        labels.append(f"{work}  {figure.what}")
    axes.axvline(1.0, color=INK, lw=1.2)
    axes.set_xscale("log")
    axes.set_xlim(1 / HALF_A_DECADE / 1.05, HALF_A_DECADE * 1.05)
    axes.set_xticks([1 / 3, 1 / 2, 1 / 1.3, 1, 1.3, 2, 3])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.2g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.grid(axis="x", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(left=False)
    axes.set_title(
        "times as good as the target: right of the line it is met (median, lowest-highest)",
        loc="left", fontsize=10,
    )  # fmt: skip


def _draw_curve(axes: Axes, label: str, points: Any, colour: str) -> None:
    from matplotlib.ticker import NullFormatter, StrMethodFormatter

    spreads = {x: Spread.of(values) for x, values in points.items()}
    x = list(spreads)
    axes.fill_between(
        x, [s.low for s in spreads.values()], [s.high for s in spreads.values()],
        color=colour, alpha=0.2, lw=0,
    )  # fmt: skip
    axes.plot(x, [s.median for s in spreads.values()], color=colour, marker="o", ms=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(x)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(0, 1.25 * max(s.high for s in spreads.values()))
    axes.set_xlabel("connected simulators")
    axes.set_title(label, loc="left", fontsize=10)
    axes.grid(color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
