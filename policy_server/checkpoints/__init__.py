"""Checkpoints: atomic, versioned, verified on the way back, and without pickle.

`checkpoint.Checkpoint` is what is kept, `manifest` proves that it is whole, `store.
CheckpointStore` writes, finds and prunes.
"""

from policy_server.checkpoints.checkpoint import Checkpoint
from policy_server.checkpoints.store import CheckpointStore

__all__ = ["Checkpoint", "CheckpointStore"]
