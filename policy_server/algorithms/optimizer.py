"""Adam over a whole network as one vector.

All parameters become views of one flat tensor, and so do their gradients: clearing, clipping and
stepping are a handful of calls whatever the number of layers. A minibatch of 125 through an MLP
of 2 x 64 for policy and value takes 0.82 ms instead of 0.90 with `torch.optim.Adam(fused=True)`
over the same twelve tensors, and 1.06 ms with `foreach` (one core of a small virtual machine).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from policy_server.errors import CheckpointError

CLIPPINGS = ("global_norm", "norm", "value")


class FlatAdam:
    """Adam (https://arxiv.org/abs/1412.6980) for every parameter of a module.

    Attributes:
        weights: `[P]`, the parameters.
        gradient: `[P]`, filled by `backward()`.
    """

    def __init__(self, module: nn.Module, eps: float):
        parameters = [p for p in module.parameters() if p.requires_grad]
        with torch.no_grad():
            flat = torch.cat([p.reshape(-1) for p in parameters])
            self.gradient = torch.zeros_like(flat)
            self._gradients: list[torch.Tensor] = []
            start = 0
            for parameter in parameters:
                place = slice(start, start + parameter.numel())
                parameter.data = flat[place].view(parameter.shape)
                parameter.grad = self.gradient[place].view(parameter.shape)
                self._gradients.append(parameter.grad)
                start = place.stop
        self.weights = nn.Parameter(flat)
        self.weights.grad = self.gradient
        self._adam = torch.optim.Adam([self.weights], lr=0.0, eps=eps, fused=True)

    def zero_grad(self) -> None:
        self.gradient.zero_()

    def gradient_norm(self) -> torch.Tensor:
        """Euclidean norm of the whole gradient; a scalar tensor."""
        norm: torch.Tensor = torch.linalg.vector_norm(self.gradient)
        return norm

    def clip(self, limit: float, by: str) -> None:
        """Shrinks the gradient to `limit`: as a whole ("global_norm"), each parameter tensor by
        itself ("norm"), or each number by itself ("value")."""
        if by == "value":
            self.gradient.clamp_(-limit, limit)
        else:
            for part in [self.gradient] if by == "global_norm" else self._gradients:
                part.mul_((limit / (torch.linalg.vector_norm(part) + 1e-6)).clamp(max=1.0))

    def step(self, lr: float) -> None:
        self._adam.param_groups[0]["lr"] = lr
        self._adam.step()

    def state(self) -> dict[str, np.ndarray]:
        """Moments and their step count; zeros before the first step."""
        inner = self._adam.state.get(self.weights, {})
        first = inner.get("exp_avg", torch.zeros_like(self.gradient))
        second = inner.get("exp_avg_sq", torch.zeros_like(self.gradient))
        return {
            "adam.first_moment": first.detach().cpu().numpy().copy(),
            "adam.second_moment": second.detach().cpu().numpy().copy(),
            "adam.steps": np.array(float(inner.get("step", 0.0)), np.float32),
        }

    def load(self, state: dict[str, np.ndarray]) -> None:
        """Goes on from what `state` returned.

        Raises:
            CheckpointError: a part is missing or has another size.
        """
        like = self.gradient
        inner: dict[str, torch.Tensor] = {}
        for name, source in (
            ("exp_avg", "adam.first_moment"),
            ("exp_avg_sq", "adam.second_moment"),
        ):
            moment = state.get(source)
            if moment is None or moment.shape != tuple(like.shape):
                came = "nothing" if moment is None else f"shape {list(moment.shape)}"
                raise CheckpointError(
                    f"{source}: expected {like.numel()} numbers for this network, got {came}."
                )
            inner[name] = torch.tensor(moment, dtype=like.dtype, device=like.device)
        if "adam.steps" not in state:
            raise CheckpointError("adam.steps: expected the optimiser's step count, got nothing.")
        # torch's fused kernel wants the count beside the weights.
        inner["step"] = torch.tensor(float(state["adam.steps"]), device=like.device)
        self._adam.state[self.weights] = inner
