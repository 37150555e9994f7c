"""A MIL program, in memory or saved, and the weights in it."""
