"""Inputs to run a model on, and what they tell of its weights and activations."""
