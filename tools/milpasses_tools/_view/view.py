"""The view of any model."""

import os
from typing import Any

import attrs

from milpasses_tools._view.graph import GraphView


def view(model: Any, part: str | None = None, function: str | None = None) -> GraphView:
    """The view of a path (``.mlmodel`` too), an ``MLModel`` or a ``Program``; raises ``PackageError``.

    Of a package only the protobuf is read, so an op that this coremltools does not know is shown as well.
    ``part``: of a pipeline, this one alone; ``function``: of several functions, this one alone.
    """
    found = _view(model, part)
    if function is None:
        return found
    from milpasses.program.functions import resolve_function

    wanted = resolve_function([one.name for one in found.functions], function)
    return attrs.evolve(found, functions=tuple(one for one in found.functions if one.name == wanted))


def _view(model: Any, part: str | None) -> GraphView:
    from coremltools.converters.mil.mil import Program

    if isinstance(model, Program) and part is None:
        from milpasses_tools._view.program import view_program

        return view_program(model)
    from milpasses_tools._models import open_parts, open_readable
    from milpasses_tools._view.package import view_package, view_parts

    name = str(os.fspath(model) if isinstance(model, str | os.PathLike) else "MLModel")
    parts = open_parts(model, part)
    return view_parts(parts, name) if parts else view_package(open_readable(model), name)
