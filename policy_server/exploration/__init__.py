"""Rewards for what is new, on top of those that the simulators send.

A plug-in (`explorer.Explorer`) says of each step how new it was, and learns from it. `bonus` adds
that to a batch's rewards before the algorithm sees them, the same for every algorithm.

Reading order: `explorer` (the interface), `icm`, `rnd`, `re3` (one page each), `successions` (what
they see of a batch), `bonus`. `plugin` finds one by name; importing that does not import torch.
"""
