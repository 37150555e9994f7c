"""Statistics for several recipes, collected once, ahead of what they calibrate."""

from collections.abc import Callable, Sequence
from typing import Any

from milpasses.calibration import sources
from milpasses.data.moments import Statistics
from milpasses.recipe.recipe import Recipe

_Progress = Callable[[int, int | None, str], None]


def collect_ahead(
    model: Any,
    recipes: Sequence[Recipe],
    data: Any,
    *,
    requantize: bool = False,
    progress: _Progress | None = None,
) -> Statistics | None:
    """What ``compress(model, recipe, calibration=data)`` would compute for each of ``recipes``.

    ``model``: path of a package. ``requantize``: of weights that are compressed already, too. None where it
    does not fit into ``sources.MEMORY`` together.
    """
    from milpasses.data.collect import collect
    from milpasses.interpreter import Interpreter
    from milpasses.program.opening import open_model
    from milpasses.program.saved import SavedProgram
    from milpasses.rewrite import Rewriter

    program = SavedProgram(open_model(model, True)[0])
    rewriters = [Rewriter(recipe, program.target, requantize=requantize) for recipe in recipes]
    sites = [one for one in program.sites() if any(rewriter.calibrates(one) for rewriter in rewriters)]
    needed = sum(2 * sources.gram_bytes(one.weight) for one in sites)  # samples held out have their own
    if needed > sources.MEMORY:
        return None
    names = {variable: one.weight.name for one in sites for _, variable in one.places}
    wanted = frozenset(names.values())
    held_out = sources.HELD_OUT
    return collect(
        Interpreter(model), data, names, full=wanted, only=wanted, held_out=held_out, progress=progress
    )
