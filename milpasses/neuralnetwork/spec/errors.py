"""What is wrong with a legacy model or one of its layers."""

from milpasses.errors import MilpassesError


class NeuralNetworkError(MilpassesError):
    """A legacy model that cannot be read; the message says what it is and what would work."""


class LayerError(NeuralNetworkError):
    """A layer whose parameters or inputs make no sense or are not supported; ``read`` adds which layer."""
