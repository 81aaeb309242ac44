"""One run: the training loop, the alternatives to replay, checkpoints and preemption."""
