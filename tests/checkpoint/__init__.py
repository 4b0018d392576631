"""Tests of checkpoints: permuted experts leave a model's outputs as they were."""
