"""What can be set of each plug-in; the pages `icm`, `rnd` and `re3` use it.

Apart from the pages, because whoever reads settings does without torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from policy_server.algorithms.options import Options

SECTION = "exploration.options"


@dataclass(frozen=True)
class ICMOptions:
    """Attributes:
    lr: step size of Adam, > 0.
    minibatch_size: steps per gradient step; each step is learned from once.
    features: numbers that an observation is summed up in.
    forward_share: beta, weight of the forward model's loss; the inverse model's is 1 - beta. 0..1.
    """

    lr: float = 1e-3
    minibatch_size: int = 128
    features: int = 64
    forward_share: float = 0.2

    def __post_init__(self) -> None:
        options = Options(self, SECTION)
        options.number("lr", 0.0, above=True)
        options.number("forward_share", 0.0, 1.0)
        for name in ("minibatch_size", "features"):
            options.integer(name, 1)


@dataclass(frozen=True)
class RNDOptions:
    """Attributes:
    lr: step size of Adam, > 0.
    minibatch_size: steps per gradient step; each step is learned from once.
    features: numbers that the random network says of an observation.
    """

    lr: float = 1e-3
    minibatch_size: int = 128
    features: int = 64

    def __post_init__(self) -> None:
        options = Options(self, SECTION)
        options.number("lr", 0.0, above=True)
        for name in ("minibatch_size", "features"):
            options.integer(name, 1)


@dataclass(frozen=True)
class RE3Options:
    """Attributes:
    neighbors: k, which of the nearest neighbors counts.
    memory: observations that neighbors are looked for among, the newest of the policy's.
    features: numbers that the random network says of an observation.
    """

    neighbors: int = 3
    memory: int = 5000
    features: int = 64

    def __post_init__(self) -> None:
        options = Options(self, SECTION)
        for name in ("neighbors", "memory", "features"):
            options.integer(name, 1)
        if self.neighbors >= self.memory:
            options.refuse("neighbors", "memory", "neighbors are looked for in the memory")
