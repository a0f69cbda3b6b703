"""Random network distillation: new is what a network has not learned to imitate yet.

A network f of random weights, which never change, says something of each observation; a predictor
f' learns to say the same of those that are seen:

    minimise E[ |f'(s_t+1) - f(s_t+1)|^2 ],

and that error is the reward of the step that led there. It is large where observations are unlike
those that the predictor was trained on.

Source: Burda et al., https://arxiv.org/abs/1810.12894. What can be set is in `options.RNDOptions`.
Where this page deviates:

- One value function for both rewards, so that intrinsic returns end with episodes, too.
- Statistics of observations begin with the first batch, not with a random agent before it.
- All steps of a batch are learned from once.
- A step that terminates its episode has reward 0, and nobody learns from it here: what it led to is
  unknown.
"""

from __future__ import annotations

import torch

from policy_server.algorithms.means import Means
from policy_server.algorithms.optimizer import FlatAdam
from policy_server.algorithms.saved import (
    generator_text,
    load_generator,
    load_tensors,
    tensors_of,
)
from policy_server.algorithms.trained import seeded
from policy_server.config import ModelConfig
from policy_server.exploration.embedding import Embedding
from policy_server.exploration.options import RNDOptions
from policy_server.exploration.successions import Successions
from policy_server.exploration.whitening import Whitening
from policy_server.networks.policy import Observations
from policy_server.stepwise import Steps
from policy_server.types import PolicySpaces, PolicyState


def rnd_error(predicted: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """|f' - f|^2 of N observations, `[N]`: the loss of each, and the reward. Shapes: `[N, F]`."""
    assert predicted.shape == wanted.shape
    return (predicted - wanted).square().sum(1)


class RND:
    """Surprise at observations.

    Attributes:
        target: f.
        predictor: f', one layer deeper.
        whitening: in front of both.
    """

    Options = RNDOptions

    def __init__(
        self,
        spaces: PolicySpaces,
        model: ModelConfig,
        options: RNDOptions,
        *,
        seed: int,
        device: torch.device,
    ):
        self.options = options
        self.whitening = Whitening(spaces.observation).to(device)
        space, features = self.whitening.space, options.features
        more = model.hidden[-1:]
        self.target = seeded(lambda: Embedding(space, model, features), seed, device)
        self.target.requires_grad_(False)
        self.predictor = seeded(lambda: Embedding(space, model, features, more), seed + 1, device)
        self._optimizer = FlatAdam(self.predictor, eps=1e-8)
        self._networks = {
            "target": self.target, "predictor": self.predictor, "whitening": self.whitening,
        }  # fmt: skip
        self._generator = torch.Generator().manual_seed(seed)
        self._means = Means()

    @property
    def weights(self) -> torch.Tensor:
        """The predictor's, `[P]`."""
        return self._optimizer.weights

    def errors(self, obs: Observations) -> torch.Tensor:
        """`rnd_error` of n observations."""
        white = self.whitening(obs)
        with torch.no_grad():
            wanted = self.target(white)
        return rnd_error(self.predictor(white), wanted)

    def reward(self, steps: Successions) -> torch.Tensor:
        """The error at what came behind each step; 0 where that is unknown. `[N]`"""
        for chunk in steps.obs.chunks(steps.next_rows[steps.followed]):
            self.whitening.observe(chunk)
        return steps.evaluate(lambda pairs: self.errors(pairs.next_obs))

    def learn(self, steps: Successions) -> Steps[dict[str, float]]:
        """All steps once."""
        for pairs in steps.shuffled(self.options.minibatch_size, self._generator):
            loss = self.errors(pairs.next_obs).mean()
            self._optimizer.minimize(loss, self.options.lr)
            self._means.add(rnd_loss=loss)
            yield
        return self._means.take()

    def state(self) -> PolicyState:
        """All that `load` needs to go on exactly from here."""
        tensors = tensors_of(self._networks, {"adam": self._optimizer})
        return PolicyState(tensors, {"generator": generator_text(self._generator)})

    def load(self, state: PolicyState) -> None:
        """Goes on from what `state` returned. Raises CheckpointError where it does not fit."""
        load_tensors(state, self._networks, {"adam": self._optimizer})
        load_generator(self._generator, state.data["generator"])
