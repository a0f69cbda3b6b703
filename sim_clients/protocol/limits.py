"""What numbers may be at most; `docs/PROTOCOL.md`, section 4, has them in words."""

REWARD_LIMIT = 1e9
NUMBER_LIMIT = 1e10
"""Larger rewards, and larger numbers in a Box, are a simulator's mistake; multiplied with one another
they would overflow where networks compute, and end the training of everybody else."""
