"""A memory that is an LSTM.

Source: Hochreiter and Schmidhuber, Neural Computation 9(8), 1997, with the forget gate of Gers et
al. (2000), as torch has it.
"""

from __future__ import annotations

import warnings

import torch
from torch import nn

from policy_server.networks.memory import Memory

# An optimiser keeps all of a network's numbers in one vector, where cuDNN does not find those of a
# layer as it wants them and copies them. That is what this is about.
warnings.filterwarnings("ignore", message="RNN module weights are not part of single contiguous")


class LSTMMemory(Memory):
    """Layers of LSTM cells, each on top of the one before.

    Its state is hidden values and cells of all layers, 2 * layers * size numbers.
    """

    def __init__(self, inputs: int, size: int, layers: int):
        super().__init__()
        self.outputs, self.state_size = size, 2 * layers * size
        self._layers = layers
        self.lstm = nn.LSTM(inputs, size, layers)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight"):
                for gate in parameter.detach().chunk(4):  # orthogonal gate by gate
                    nn.init.orthogonal_(gate)
            else:
                nn.init.zeros_(parameter)

    def step(self, x: torch.Tensor, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        outputs, (hidden, cell) = self.lstm(x.unsqueeze(0), self._split(state))
        return outputs.squeeze(0), torch.cat([hidden, cell]).transpose(0, 1).flatten(1)

    def unroll(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = self.lstm(x, self._split(state))[0]
        return outputs

    def _split(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        parts = state.view(len(state), 2, self._layers, self.outputs).permute(1, 2, 0, 3)
        return parts[0].contiguous(), parts[1].contiguous()
