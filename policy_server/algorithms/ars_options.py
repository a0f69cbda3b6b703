"""What can be set of ARS; `ars` is the page that uses it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from policy_server.algorithms.mirrored_options import MirroredTraining
from policy_server.algorithms.options import Options


@dataclass(frozen=True)
class ARSTraining(MirroredTraining):
    """Options and their customary defaults.

    Attributes:
        top_directions: those of `directions` whose better episode was best; the others are left
            out.
    """

    top_directions: int = 16

    title: ClassVar[str] = "augmented random search"

    def __post_init__(self) -> None:
        super().__post_init__()
        options = Options(self)
        options.integer("top_directions", 1)
        if self.top_directions > self.directions:
            options.refuse("top_directions", "directions", "no more can be the best than there are")
