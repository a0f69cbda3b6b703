"""Coefficients that change with the number of environment steps."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence

Points = tuple[tuple[int, float], ...]
"""((step, value), ...), steps strictly rising from 0."""


def check_points(points: Sequence[Sequence[float]], low: float, high: float = math.inf) -> Points:
    """The schedule as tuples; all values must lie in [low, high].

    Raises:
        ValueError: what a schedule should look like, for the caller's sentence.
    """
    most = "" if high == math.inf else f" and <= {high:g}"
    wanted = (
        f"pairs [env step, value], steps rising strictly from 0, finite values >= {low:g}{most}"
    )
    try:
        checked = tuple((int(step), float(value)) for step, value in points)
        exact = all(int(step) == step for step, _ in points)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(wanted) from None
    steps = [step for step, _ in checked]
    rising = all(a < b for a, b in itertools.pairwise(steps))
    if not checked or not exact or steps[0] != 0 or not rising:
        raise ValueError(wanted)
    if not all(math.isfinite(value) and low <= value <= high for _, value in checked):
        raise ValueError(wanted)
    return checked


def scheduled(points: Points | None, constant: float, env_steps: int) -> float:
    """Value at `env_steps`: linear between points, constant behind the last; `constant` if there
    is no schedule."""
    if points is None:
        return constant
    i = bisect.bisect_right(points, env_steps, key=lambda point: point[0])
    if i == len(points):
        return points[-1][1]
    if i == 0:
        return points[0][1]
    (start, low), (end, high) = points[i - 1], points[i]
    return low + (high - low) * (env_steps - start) / (end - start)
