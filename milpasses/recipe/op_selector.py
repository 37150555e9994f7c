"""The ``op_selector`` of coremltools' deprecated ``compression_utils``, as what keeps a weight."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from milpasses import _coremltools as host
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
    select = host.op_selector(config)
    if select is None:
        return None, None
    default, smallest = host.default_op_selector()
    if select is default:
        return None, smallest

    def unselected(weight: Weight) -> bool:
        try:
            return not select(_ConstOp(weight))
        except AttributeError as error:
            raise RecipeError(f"op_selector: {error}: write it as Rule(where=...)") from error

    return unselected, 0
