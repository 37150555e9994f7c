"""8-bit activations: where ``quantize`` and ``dequantize`` pairs stand, and their grids."""
