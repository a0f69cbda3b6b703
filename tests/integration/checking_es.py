"""ES that plays every step of a batch again: with the weights and the noise that it believes the
episode was played with."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from policy_server.algorithms.es import ES
from policy_server.networks import flatten_parameters, load_flat
from policy_server.perturbation import perturbed
from policy_server.types import ActionLayout, Batch


class CheckingES(ES):
    """Reports `steps_checked`, all of them so far.

    Raises:
        AssertionError: what was done is not what the episode's parameters do.
    """

    def __init__(self, spaces: Any, model: Any, config: Any, **settings: Any):
        super().__init__(spaces, model, config, **settings)
        self._layout = ActionLayout(spaces.action)
        self._twin = self.make_network(spaces, model, config)
        self._published = [flatten_parameters(self.network)]  # by version
        self._played: dict[int, np.ndarray] = {}  # episode -> what it is played with
        self._steps = 0

    def update(self, batch: Batch, env_steps: int) -> dict[str, float]:
        numbers = batch.t
        # One unroll after the other: those of a lane are in the order in which they were played.
        for b, t in np.argwhere(batch.valid.T).tolist():
            episode = int(batch.episodes[t, b])
            if numbers[t, b] == 0:
                weights = self._published[int(batch.versions[t, b])]
                everywhere = np.ones(len(weights), bool)
                deviation = self.config.noise_stdev
                self._played[episode] = perturbed(
                    weights, everywhere, deviation, self._seed, episode
                )
            self._check(batch, t, b, self._played[episode])
        metrics = super().update(batch, env_steps)
        self._published.append(flatten_parameters(self.network))
        return metrics | {"steps_checked": float(self._steps)}

    def _check(self, batch: Batch, t: int, b: int, weights: np.ndarray) -> None:
        load_flat(self._twin, weights)
        with torch.no_grad():
            head = self._twin.policy([torch.from_numpy(leaf[t, b][None]) for leaf in batch.obs])
        width = self._layout.mask_width
        choice = head[0, :width].argmax().item()
        assert batch.categories[t, b].tolist() == [choice], (t, b)
        np.testing.assert_allclose(batch.reals[t, b], head[0, width:], rtol=1e-4, atol=1e-5)
        self._steps += 1
