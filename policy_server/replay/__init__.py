"""Steps that are learned from more than once.

Reading order: `steps` (what is kept, and how it is found again), `sum_tree` (which step is drawn),
`rate_limiter` (how often), `shards` (the same in several processes).
"""
