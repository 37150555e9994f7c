"""The parts of ``bisect``: the search among weights, the search among passes, what they found."""
