"""The parts of ``explain``: how a weight is stored, why, what a recipe would do, advice by compute unit."""
