"""The original of a bisection, for the target of what was made of it: the ops of both are then the same."""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs


@contextmanager
def raised_original(original: Any, compressed: Any, target: Any) -> Generator[tuple[Any, list[str]]]:
    """The original, raised to ``target``; one before iOS16 to what the compressed model has; and notes.

    Of a pipeline each part. What was raised is in a temporary folder that goes at the end of the context.
    """
    from coremltools.converters.mil.mil import Program

    from milpasses.program.opening import check_newer, open_program
    from milpasses.program.sources import read_source
    from milpasses_tools._models import open_whole

    models = (original, compressed)
    if any(isinstance(model, Program) for model in models):
        yield original, []
        return
    with tempfile.TemporaryDirectory() as folder:
        first, second = (open_whole(model) for model in models)
        if first is None or second is None:
            if any(read_source(model).is_network for model in models):
                yield original, []  # read anew, for the newest target
                return
            if target is not None:
                check_newer([open_program(original)], target)
            raised, note = _raised(open_program(original), open_program(compressed), target, Path(folder))
            yield (original if raised is None else raised.package.path), note
            return
        programs = {leaf.name: leaf.program for leaf in first.leaves() if leaf.program is not None}
        others = {leaf.name: leaf.program for leaf in second.leaves() if leaf.program is not None}
        if target is not None:
            check_newer(programs.values(), target)
        notes: list[str] = []
        for index, (name, program) in enumerate(programs.items()):
            place = Path(folder) / str(index)
            place.mkdir()
            other = others.get(name)
            if other is None:
                continue
            raised, note = _raised(program, other, target, place)
            programs[name] = program if raised is None else raised
            notes += [f"part {name}: {text}" for text in note]
        yield attrs.evolve(first, raised=programs), notes


def _raised(program: Any, other: Any, target: Any, folder: Path) -> tuple[Any, list[str]]:
    """``program`` raised to ``target``, or to that of ``other``; None where it stays; and a note, if any."""
    from milpasses.program.opening import raise_target
    from milpasses.program.opset import compressible, raised_note

    old = program.target
    if target is None and compressible(old) is old:
        return None, []
    raised = raise_target(program, other.target if target is None else target, folder)
    unasked = target is None and raised is not program
    return raised, [raised_note(old, other.target)] if unasked else []
