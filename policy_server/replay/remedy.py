"""What an operator can always do about a stored replay buffer that does not fit."""

WITHOUT = "start without it (training.save_replay = false)"
