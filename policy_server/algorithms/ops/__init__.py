"""Mathematics that algorithms share: pure functions of tensors, time-indexed and cited."""
