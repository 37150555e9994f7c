"""Quantization of legacy networks in their own format."""
