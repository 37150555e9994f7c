"""``milpasses::prune_weights``: a bit mask and the values under it."""

from typing import Any

import attrs
from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from milpasses.passes._weight_pass import WeightPass
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.schemes import Prune


@register_pass(namespace="milpasses")
class prune_weights(WeightPass):
    """Rewrite constants into a mask of the non-zeros and the non-zeros themselves.

    Input graph::

        %w = const(val=...)
        %y = linear(x=%x, weight=%w)

    Output graph, for ``{"target_sparsity": 0.75}``::

        %w_sparsified = constexpr_sparse_to_dense(nonzero_data=..., mask=...)
        %y = linear(x=%x, weight=%w_sparsified)

    A form that is no smaller than the dense weight is not emitted: the mask costs a bit a weight.
    Options are the fields of ``milpasses.Prune``; which weights are left as they are is said at
    ``milpasses::compress_weights``.
    """

    accepted = tuple(field.name for field in attrs.fields(Prune))

    def read_options(self, options: dict[str, Any]) -> Recipe:
        """One scheme for every weight."""
        return Recipe(default=Prune.from_fields(options))
