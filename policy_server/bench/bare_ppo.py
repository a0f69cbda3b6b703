"""PPO as one writes it down for one purpose: the limit that our learner is measured by.

A plain torch loop over the same network, epochs and minibatches: no masks, no mixed actions, no
padding, no final observations, no metrics, no schedules. It reaches the same weights.

Source: Schulman et al., https://arxiv.org/abs/1707.06347.
"""

from __future__ import annotations

import torch
from torch import nn

from policy_server.algorithms.ppo import PPOTraining
from policy_server.types import Batch


def mlp(inputs: int, hidden: list[int], outputs: int) -> nn.Sequential:
    """Dense layers with tanh in between."""
    parts: list[nn.Module] = []
    for units in hidden:
        parts += [nn.Linear(inputs, units), nn.Tanh()]
        inputs = units
    return nn.Sequential(*parts, nn.Linear(inputs, outputs))


class BarePPO:
    """Discrete actions, whole unrolls."""

    def __init__(
        self,
        inputs: int,
        hidden: list[int],
        actions: int,
        config: PPOTraining,
        device: torch.device,
    ):
        self.config, self.device = config, device
        self.actor = mlp(inputs, hidden, actions).to(device)
        self.critic = mlp(inputs, hidden, 1).to(device)
        parameters = [*self.actor.parameters(), *self.critic.parameters()]
        self.adam = torch.optim.Adam(parameters, lr=config.lr, eps=config.adam_eps, fused=True)

    def update(self, batch: Batch) -> None:
        """Learns from one batch without padding or truncated steps."""
        c = self.config
        steps, lanes = batch.rewards.shape
        obs = torch.from_numpy(batch.obs[0]).to(self.device)  # [T+1, B, 8]
        rewards = torch.from_numpy(batch.rewards).to(self.device)
        goes_on = 1.0 - torch.from_numpy(batch.terminated).to(self.device).float()
        with torch.no_grad():
            values = self.critic(obs).squeeze(-1)  # [T+1, B]
            advantages = torch.zeros_like(rewards)
            following = torch.zeros(lanes, device=self.device)
            for t in reversed(range(steps)):
                delta = rewards[t] + c.gamma * values[t + 1] * goes_on[t] - values[t]
                following = delta + c.gamma * c.lambda_ * goes_on[t] * following
                advantages[t] = following
            b_returns = (advantages + values[:-1]).flatten()
            b_advantages = advantages.flatten()
            deviation = b_advantages.std(unbiased=False).clamp(min=1e-4)
            b_advantages = (b_advantages - b_advantages.mean()) / deviation
        b_obs = obs[:-1].flatten(0, 1)
        b_actions = torch.from_numpy(batch.categories).to(self.device).flatten(0, 1)
        b_logp = torch.from_numpy(batch.logp).to(self.device).flatten()
        for _ in range(c.num_epochs):
            order = torch.randperm(steps * lanes).to(self.device)
            for at in torch.split(order, c.minibatch_size):
                mb_obs = b_obs[at]
                log_probs = torch.log_softmax(self.actor(mb_obs), dim=1)
                new_values = self.critic(mb_obs).squeeze(1)
                logp = log_probs.gather(1, b_actions[at]).squeeze(1)
                ratio = (logp - b_logp[at]).exp()
                mb_advantages = b_advantages[at]
                clipped = ratio.clamp(1 - c.clip_param, 1 + c.clip_param)
                surrogate = torch.minimum(ratio * mb_advantages, clipped * mb_advantages)
                vf_error = (new_values - b_returns[at]).square().clamp(max=c.vf_clip_param)
                entropy = -(log_probs.exp() * log_probs).sum(1)
                loss = c.vf_loss_coeff * vf_error - surrogate - c.entropy_coeff * entropy
                self.adam.zero_grad()
                loss.mean().backward()
                self.adam.step()
