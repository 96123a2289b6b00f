"""From a checkpoint and a split to scores, a submission and pictures."""
