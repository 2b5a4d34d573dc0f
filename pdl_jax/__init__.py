"""Panoptic-DeepLab in JAX and Flax: train, evaluate and predict on CPUs, GPUs and TPU pods."""

__version__ = '0.1.0'
