"""What can be set of ES; `es` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.algorithms.mirrored_options import MirroredTraining
from policy_server.algorithms.options import Options


@dataclass(frozen=True)
class ESTraining(MirroredTraining):
    """Options and their customary defaults.

    Attributes:
        weight_decay: weight of the parameters' own size in the gradient, >= 0.
        adam_eps: epsilon of Adam, > 0.
    """

    weight_decay: float = 0.005
    adam_eps: float = 1e-8

    title: ClassVar[str] = "evolution strategies"

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        options.number("weight_decay", 0.0)
        options.number("adam_eps", 0.0, above=True)
