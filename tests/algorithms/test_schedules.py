"""Values that change with environment steps."""

import pytest

from policy_server.algorithms.ops.losses import adapted_kl_coeff
from policy_server.algorithms.ops.schedules import check_points, scheduled


@pytest.mark.parametrize(
    ("step", "value"),
    [(0, 1.0), (50, 0.75), (100, 0.5), (150, 0.5), (200, 0.5), (300, 0.25), (10**9, 0.0)],
)
def test_linear_between_points_and_constant_behind(step: int, value: float) -> None:
    points = check_points([[0, 1.0], [100, 0.5], [200, 0.5], [400, 0.0]], 0.0)
    assert scheduled(points, 9.0, step) == pytest.approx(value, abs=1e-12)


def test_constant_without_points() -> None:
    assert scheduled(None, 0.3, 1000) == 0.3


@pytest.mark.parametrize(
    "points",
    [[], [[1, 1.0]], [[0, 1.0], [0, 2.0]], [[0, 1.0], [5, 1.0], [4, 1.0]], [[0, float("nan")]],
     [[0, -1.0]], [[0]], 5, [[0.5, 1.0]], [["a", 1.0]]],
)  # fmt: skip
def test_refuses_what_is_no_schedule(points: object) -> None:
    with pytest.raises(ValueError, match="rising strictly from 0"):
        check_points(points, 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kl", "factor"), [(0.0201, 1.5), (0.02, 1.0), (0.005, 1.0), (0.0049, 0.5)]
)
def test_kl_coefficient_steers_to_its_target(kl: float, factor: float) -> None:
    assert adapted_kl_coeff(0.2, kl, 0.01) == pytest.approx(0.2 * factor)
