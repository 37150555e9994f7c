"""8-bit activations: where ``quantize`` and ``dequantize`` pairs stand, with which scale, and how they get there."""
