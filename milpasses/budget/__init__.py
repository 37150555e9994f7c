"""Mixed precision: bits, granularity and form of each weight, chosen together for a budget of bytes.

``fitting`` leads: ``candidates`` tries each scheme on each weight, with ``probe`` or ``layer_error`` to
measure it and ``stored`` to count its bytes, which makes the ``table``; ``problem`` and ``allocation`` choose
from that; ``finalists`` runs the model with whole choices.
"""

from milpasses.budget.fitting import Fit, fit, sensitivity
from milpasses.budget.table import Option, Sensitivity, WeightOptions

__all__ = ["Fit", "Option", "Sensitivity", "WeightOptions", "fit", "sensitivity"]
