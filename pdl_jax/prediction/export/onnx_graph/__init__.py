"""Programs of JAX as graphs of ONNX: the operations that inference is made of, and no others.

Feature maps [B, H, W, C] stay channels-first from one convolution to the next, broadcasts are left
to the operations that repeat their operands anyway, and what is constant is computed here.
"""
