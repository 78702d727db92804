"""Training: the loop, averages of weights, checkpoints and logs."""
