"""``milpasses::quantize_activations``: 8-bit activations between ``quantize`` and ``dequantize``."""

from typing import Any

from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from milpasses.activations.measure import known_statistics, ranges_in
from milpasses.activations.quantize import ActivationQuantizer, wanted_points
from milpasses.data.moments import Statistics
from milpasses.errors import MilpassesError
from milpasses.passes._reporting import remember
from milpasses.passes._weight_pass import read_flag
from milpasses.program.memory import MemoryProgram
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report

_ACCEPTED = ("recipe", "statistics", "report", "strict")


@register_pass(namespace="milpasses")
class quantize_activations(AbstractGraphPass):
    """Put ``quantize`` and ``dequantize`` pairs around the ops that Core ML fuses them into (iOS17).

    Input graph::

        %y = conv(x=%x, weight=%w)
        %z = relu(x=%y)

    Output graph::

        %x_quantized = quantize(input=%x, scale=..., output_dtype="int8")
        %x_dequantized = dequantize(input=%x_quantized, scale=...)
        %y = conv(x=%x_dequantized, weight=%w)
        %z = relu(x=%y)
        %z_quantized = quantize(input=%z, ...)       # and dequantize, for each use of %z

    Left float: matmul (unless a rule asks), ops in nested blocks, outputs of the program, tensors that never
    vary or that no sample reached, and what has a pair already.

    Options: ``statistics`` (``milpasses.statistics`` of the same network converted without compression, or
    the path of their file; needed), ``recipe`` (``"a8"`` unless given; its weights are left to the other
    passes), ``report``, ``strict`` (a rule for activations that is for no op is an error).
    """

    def __init__(self) -> None:
        self.recipe = Recipe.of("a8")
        self.report = Report()
        self.statistics: Statistics | None = None
        self.strict = False

    def set_options(self, pass_options: Any = None) -> None:
        """Take coremltools' ``PassOption`` list; an unknown name or a wrong value is refused here."""
        given = {option.option_name: option.option_val for option in pass_options or ()}
        if unknown := sorted(set(given) - set(_ACCEPTED)):
            raise MilpassesError(
                f"milpasses::{self}: no option {unknown[0]!r}; accepted are {', '.join(sorted(_ACCEPTED))}"
            )
        self.recipe = Recipe.of(given.get("recipe", "a8"))
        if not self.recipe.wants_activations:
            raise MilpassesError(f"milpasses::{self}: the recipe {self.recipe} leaves activations float")
        self.strict = read_flag(self, "strict", given)
        report = given.get("report")
        self.report = report if isinstance(report, Report) else Report()
        self.statistics = known_statistics(given["statistics"]) if "statistics" in given else None

    def apply(self, prog: Any) -> None:
        """Rewrite the program in place; a second run over its own output adds nothing."""
        if self.statistics is None:
            raise MilpassesError(
                f"milpasses::{self}: set its option statistics, milpasses.statistics(model, data) of the "
                "same network converted without compression"
            )
        self.report.activations.clear()
        program = MemoryProgram(prog)
        ranges = {
            view.name: ranges_in(self.statistics, wanted_points(self.recipe, view), view)
            for view in program.functions
        }
        quantizer = ActivationQuantizer(self.recipe, ranges, strict=self.strict)
        quantizer.quantize_memory(program, self.report)
        remember(prog, self.report)
