"""``milpasses::palettize_weights``: indices into look-up tables."""

from typing import Any

import attrs
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from milpasses.passes._weight_pass import WeightPass
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.schemes import Palettize


@register_pass(namespace="milpasses")
class palettize_weights(WeightPass):
    """Rewrite constants into indices of 1 to 8 bits and the tables they point into.

    Input graph::

        %w = const(val=...)
        %y = linear(x=%x, weight=%w)

    Output graph, for ``{"nbits": 4}``::

        %w_palettized = constexpr_lut_to_dense(indices=..., lut=...)   # uint4, (1, 1, 16, 1)
        %y = linear(x=%x, weight=%w_palettized)

    For iOS16 and iOS17: one table for the tensor, of 1, 2, 4, 6 or 8 bits.
    Options are the fields of ``milpasses.Palettize``; which weights are left as they are is said at
    ``milpasses::compress_weights``.
    """

    accepted = tuple(field.name for field in attrs.fields(Palettize))

    def read_options(self, options: dict[str, Any]) -> Recipe:
        """One scheme for every weight."""
        return Recipe(default=Palettize.from_fields(options))
