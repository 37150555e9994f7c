"""``milpasses::decompress_weights``: compressed weights as dense constants again."""

from typing import Any

from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from milpasses.program.memory import MemoryProgram
from milpasses.report import Report
from milpasses.rewrite import decompress_program


@register_pass(namespace="milpasses")
class decompress_weights(AbstractGraphPass):
    """Replace each constexpr op, and those that feed it, by the constant that it computes.

    Input graph::

        %w_palettized = constexpr_lut_to_dense(indices=..., lut=...)
        %y = linear(x=%x, weight=%w_palettized)

    Output graph::

        %w = const(val=...)
        %y = linear(x=%x, weight=%w)

    Nothing is lost: the constant has the values and the type that the op decodes to. Option ``report``: a
    ``milpasses.Report`` to fill.
    """

    def __init__(self) -> None:
        self.report = Report()

    def apply(self, prog: Any) -> None:
        """Rewrite the program in place."""
        decompress_program(MemoryProgram(prog), self.report)
