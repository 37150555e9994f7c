"""Numba kernels for weight compression: arrays in, arrays out. Imports neither coremltools nor milpasses."""
