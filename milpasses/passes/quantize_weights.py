"""``milpasses::quantize_weights``: affine codes of 8 or 4 bits."""

from typing import Any

import attrs
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from milpasses.passes._weight_pass import WeightPass
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.schemes import Quantize


@register_pass(namespace="milpasses")
class quantize_weights(WeightPass):
    """Rewrite constants into integers with a scale: ``scale * (codes - zero_point)``.

    Input graph::

        %w = const(val=...)
        %y = linear(x=%x, weight=%w)

    Output graph, for ``{"dtype": "int4", "granularity": "per_block"}``::

        %w_quantized = constexpr_blockwise_shift_scale(data=..., scale=...)   # int4, (out, in / 32)
        %y = linear(x=%x, weight=%w_quantized)

    For iOS16 and iOS17 the op is ``constexpr_affine_dequantize``: 8 bits, per tensor or channel.
    Options are the fields of ``milpasses.Quantize``; which weights are left as they are is said at
    ``milpasses::compress_weights``.
    """

    accepted = tuple(field.name for field in attrs.fields(Quantize))

    def read_options(self, options: dict[str, Any]) -> Recipe:
        """One scheme for every weight."""
        return Recipe(default=Quantize.from_fields(options))
