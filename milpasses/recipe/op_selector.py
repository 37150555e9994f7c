"""The ``op_selector`` of coremltools' deprecated ``compression_utils``, as what keeps a weight."""

from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from milpasses.program.weights import Weight
from milpasses.recipe.text import RecipeError


class _ConstOp:
    """What an ``op_selector`` may read of a const op."""

    op_type = "const"

    def __init__(self, weight: Weight) -> None:
        self.name = weight.name
        self._weight = weight

    @property
    def val(self) -> SimpleNamespace:
        weight = self._weight
        users = [SimpleNamespace(name=use.op_name, op_type=use.op_type) for use in weight.consumers]
        return SimpleNamespace(
            name=weight.name, val=weight.value, shape=weight.shape, rank=weight.rank, child_ops=users
        )

    @property
    def outputs(self) -> list[SimpleNamespace]:
        return [self.val]


def read_selector(config: Any) -> tuple[Callable[[Weight], bool] | None, int | None]:
    """The deprecated API's ``op_selector`` as what keeps a weight; the threshold its configs leave out."""
    select = getattr(config, "_op_selector", None)
    if select is None:
        return None, None
    compression_utils: Any = import_module("coremltools.models.ml_program.compression_utils")
    if select is compression_utils._default_op_selector:
        return None, compression_utils._DEFAULT_MIN_WEIGHT_SIZE_TO_COMPRESS

    def unselected(weight: Weight) -> bool:
        try:
            return not select(_ConstOp(weight))
        except AttributeError as error:
            raise RecipeError(f"op_selector: {error}: write it as Rule(where=...)") from error

    return unselected, 0
