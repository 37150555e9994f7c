"""What compressed forms store, learned by gradients: the same forms, the same bytes, no op more."""

from milpasses.tuning.tuner import tune

__all__ = ["tune"]
