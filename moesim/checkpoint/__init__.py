"""Checkpoints: put the experts of a saved model in another order, shard by shard, without loading the model."""

from moesim.checkpoint.permute import permute_checkpoint

__all__ = ["permute_checkpoint"]
