"""Statistics for several recipes, collected once, ahead of what they calibrate."""

from collections.abc import Callable
from typing import Any

from milpasses.calibration import sources
from milpasses.data.collect import collect
from milpasses.data.moments import Statistics
from milpasses.interpreter import Interpreter
from milpasses.program.saved import SavedProgram
from milpasses.program.weights import Site

_Progress = Callable[[int, int | None, str], None]


def collect_ahead(
    program: SavedProgram,
    calibrates: Callable[[Site], bool],
    data: Any,
    *,
    function: str | None = None,
    progress: _Progress | None = None,
) -> Statistics | None:
    """What ``compress`` would compute for the weights that ``calibrates`` picks, whatever their recipe.

    ``function``: the one that runs, the program's default unless given.

    None where it does not fit into ``sources.MEMORY`` together.
    """
    sites = [site for site in program.sites() if calibrates(site)]
    needed = sum(2 * sources.gram_bytes(site.weight) for site in sites)  # samples held out have their own
    if needed > sources.MEMORY:
        return None
    interpreter = Interpreter(program, function)
    names = {
        variable: site.weight.name for site in sites for variable in site.variables(interpreter.function_name)
    }
    wanted = frozenset(names.values())
    held_out = sources.HELD_OUT
    return collect(interpreter, data, names, full=wanted, only=wanted, held_out=held_out, progress=progress)
