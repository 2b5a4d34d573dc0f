"""Inference in PyTorch with its post-processing, from a normalised image; see `peers.model`."""

from benchmarks.peers.model import prepare

__all__ = ['prepare']
