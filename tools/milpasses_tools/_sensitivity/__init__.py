"""The parts of ``sensitivity``: the order of the weights, the picture."""
