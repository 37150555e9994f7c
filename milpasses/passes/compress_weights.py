"""``milpasses::compress_weights``: every weight in the form that a recipe gives it."""

from typing import Any

from coremltools.converters.mil.mil.passes.pass_registry import register_pass

from milpasses.errors import MilpassesError
from milpasses.passes._weight_pass import WeightPass
from milpasses.recipe.recipe import Recipe


@register_pass(namespace="milpasses")
class compress_weights(WeightPass):
    """Rewrite constants into the constexpr ops of a recipe's schemes.

    Input graph::

        %w = const(val=...)                            # float16, (512, 256, 3, 3)
        %y = conv(x=%x, weight=%w)

    Output graph, for ``recipe="pal4-g16"``::

        %w_palettized = constexpr_lut_to_dense(indices=..., lut=...)   # uint4, (32, 1, 1, 1, 16, 1)
        %y = conv(x=%x, weight=%w_palettized)

    Left as they are, with a reason in the report: vectors and integers, weights of at most
    ``weight_threshold`` elements, weights with NaN or inf, weights that a block returns or from which a value
    was inferred already, weights that are compressed already, and forms that would save no byte. With
    ``statistics``, biases of conv and linear take up what their ops' outputs lose on average.

    Option ``recipe``: whatever ``milpasses.Recipe.of`` takes. Its ``a8`` is the work of
    ``milpasses::quantize_activations``, which ``milpasses.pipeline`` adds.
    """

    accepted = ("recipe",)

    def read_options(self, options: dict[str, Any]) -> Recipe:
        """The recipe of the option ``recipe``."""
        if "recipe" not in options:
            raise MilpassesError(
                'milpasses::compress_weights: set its option recipe, for example {"recipe": "pal4-g16"}'
            )
        return Recipe.of(options["recipe"])
