"""How sensitive the weights are: their order, and their figures in decibels. Imports nothing heavy."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from milpasses.budget import Sensitivity, WeightOptions


def by_sensitivity(table: "Sensitivity") -> "list[WeightOptions]":
    """The weights, most sensitive first: by the mean over their candidates, in decibels."""
    from math import log10

    def mean(weight: "WeightOptions") -> float:
        lost = [log10(option.output_error) for option in weight.options if option.output_error > 0]
        return sum(lost) / len(lost) if lost else float("-inf")

    return sorted(table, key=mean, reverse=True)


def decibels(output_error: float) -> float | None:
    """An output error as signal-to-noise ratio; None where nothing is lost."""
    from milpasses.report import decibels as ratio

    return ratio(1.0, output_error) if output_error > 0 else None
