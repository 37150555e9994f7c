"""What reaches a part of a pipeline, as samples of its own."""

from collections.abc import Iterator
from typing import Any

from milpasses.data.samples import Sample, Samples
from milpasses.errors import MilpassesError
from milpasses.interpreter import PipelineInterpreter


def samples_of_part(interpreter: PipelineInterpreter, data: Any, part: str) -> Samples:
    """The inputs of ``part`` (inside a nested pipeline: ``outer/part``) where the pipeline runs on ``data``.

    The parts before it run anew each time the samples are read; nothing is kept. ``data`` is whatever
    ``Samples.of`` takes for the pipeline. Raises ``MilpassesError`` where a part before it cannot run here.
    """
    name = next((name for name in interpreter.runners if part == name or part.startswith(f"{name}/")), None)
    if name is None:
        blocked = interpreter.blocked
        raise MilpassesError(
            f"part {part}: what reaches it is not known here"
            + ("" if blocked is None else f": part {blocked.name} ({blocked.kind}) runs in Core ML only")
        )
    samples = Samples.of(data, interpreter)
    runner = interpreter.runners[name]

    def items() -> Iterator[Sample]:
        for sample in samples:
            step = next(step for step in interpreter.steps(sample.inputs) if step.name == name)
            yield Sample(step.inputs, sample.label, sample.name)

    reached = Samples(
        items, runner.inputs, f"{samples.description}, as it reaches part {name}", samples.count,
        random=samples.random,
    )  # fmt: skip
    if part == name:
        return reached
    assert isinstance(runner.interpreter, PipelineInterpreter)
    return samples_of_part(runner.interpreter, reached, part.removeprefix(f"{name}/"))
