"""Training of one run: the loop, the alternatives to replay, checkpoints and preemption."""
