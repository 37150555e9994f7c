"""Slow, obvious versions of every kernel: the oracles of the tests."""
