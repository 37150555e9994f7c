"""The ranges of activations from data or statistics, refused with one line where they say too little."""

import math
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from milpasses.activations.altered import changes, takers
from milpasses.activations.equalization import equalized
from milpasses.activations.fallback import Fallback, activations_kept_float
from milpasses.activations.observed import Observed, observe
from milpasses.activations.quantize import ActivationQuantizer, Ranges, of_tensor, wanted_points
from milpasses.activations.ranges import Points, choose_ranges, least_ranges
from milpasses.calibration.sources import Prepare
from milpasses.data.collect import statistics as collect_statistics
from milpasses.data.moments import Statistics
from milpasses.data.norms import is_norms
from milpasses.data.samples import model_inputs
from milpasses.errors import MilpassesError, Refusal, SampleError
from milpasses.interpreter import Interpreter
from milpasses.program.graph import FunctionGraph
from milpasses.program.opset import check_activations
from milpasses.program.saved import SavedProgram
from milpasses.recipe.recipe import Recipe
from milpasses.report import Report

FEWEST = 2
Finish = Callable[[Any, Report], None]


def repeatable(data: Any) -> Any:
    """Data that may be read twice: for ranges and for weights."""
    return list(data) if isinstance(data, Iterator) else data


def known_statistics(statistics: Any) -> Statistics:
    """``statistics`` (``Statistics``, or the path of their file) that hold ranges."""
    if isinstance(statistics, str | os.PathLike) and not is_norms(statistics):
        statistics = Statistics.load(Path(statistics))
    if not isinstance(statistics, Statistics) or not statistics.ranges:
        raise MilpassesError(
            "8-bit activations need ranges: statistics must be milpasses.statistics(model, data), or the "
            "path of their file"
        )
    return statistics


def ranges_in(statistics: Statistics, points: Points, function: FunctionGraph) -> Ranges:
    """The ranges of ``points``, those of ``function``: by its histogram the one that loses least of each.

    The smallest and the largest value where there is no histogram. Raises ``MilpassesError`` for statistics
    of another model: a tensor is missing, or has another size.
    """
    ranges, histograms = dict(statistics.ranges), dict(statistics.counted)
    sizes = _sizes(function, {name for point, _ in points for name in point.tensors})
    for point, _ in points:
        if of_tensor(ranges, point.name) is None:
            raise _other_model(point.name)
        for name in point.tensors:  # a constant that is joined to others has no range
            span, histogram = of_tensor(ranges, name), of_tensor(histograms, name)
            if span is not None:
                ranges[name] = span
            if histogram is None or span is None:
                continue
            histograms[name] = histogram
            fits = histogram.total == histogram.samples * sizes.get(name, 0)
            if name in sizes and not (fits or span.nonfinite):
                raise _other_model(name)
    return least_ranges(points, ranges, histograms)


def _other_model(name: str) -> MilpassesError:
    return MilpassesError(
        f"the statistics do not fit this model (activation {name}): they belong to another one"
    )


def _sizes(function: FunctionGraph, names: Collection[str]) -> dict[str, int]:
    """Elements of the tensors of these names, where the shape is fixed."""
    found: dict[str, int] = {}
    for op in function.body():
        for variable in function.outputs(op)[:1]:
            name = function.variable_name(variable)
            shape: tuple[Any, ...] = function.result(op)[0] if name in names else (None,)
            if all(isinstance(size, int | np.integer) and size > 0 for size in shape):  # a free one is not
                found[name] = math.prod(shape)
    return found


def smallest_and_largest(program: SavedProgram, data: Any) -> dict[str, Ranges]:
    """What every activation of the default function reaches from and to, by the function's name."""
    name = program.function_name(None)
    return {name: collect_statistics(program, data, function=name).ranges}


@attrs.frozen(eq=False)
class ActivationPlan:
    """What ``activations_of`` found.

    ``program``: as it is to be, its channels equalized where that gains. ``finish``: as ``write_rewritten``
    takes it, adds the pairs. ``prepare``: lets ops of an interpreter take 8-bit inputs, so that weights are
    fitted to those. Both are None where activations stay float.
    """

    program: SavedProgram
    finish: Finish | None = None
    prepare: Prepare | None = None


def activations_of(
    program: SavedProgram,
    recipe: Recipe,
    statistics: Any,
    data: Any,
    folder: Path,
    *,
    function: str | None = None,
    strict: bool = False,
    check: bool = True,
    equalize: bool = True,
    fallback: Fallback | None = None,
) -> ActivationPlan:
    """What makes the activations of ``recipe`` 8-bit; nothing where it leaves them float.

    Every function that takes what ``function`` takes is run on ``data`` by itself, or that alone where it is
    given. With ``equalize`` channels may be scaled alike, in a program that is written under ``folder``.
    ``strict``: a rule that is for no op is an error; ``check``: it is said at all. ``fallback``: what outputs
    may lose. Raises ``TargetError``, and ``MilpassesError`` where neither ``statistics`` nor ``data`` say
    enough.
    """
    if not recipe.wants_activations:
        return ActivationPlan(program)
    check_activations(program.target)
    ran = program.function_name(function)
    views = {view.name: view for view in program.functions}
    ranges: dict[str, Ranges] = {}
    kept: dict[str, dict[str, Refusal]] = {}
    notes: list[str] = []
    if statistics is not None:
        if fallback is not None:
            raise MilpassesError(
                "fallback=: needs calibration=data, as statistics do not say what outputs lose"
            )
        points = wanted_points(recipe, views[ran])
        ranges[ran] = ranges_in(known_statistics(statistics), points, views[ran])
    elif data is None or is_norms(data):
        raise MilpassesError(
            "8-bit activations need data: pass calibration=data (samples to run the model on) or statistics="
        )
    else:
        for name in [ran] if function is not None else _taking_alike(program, ran):
            points = wanted_points(recipe, views[name])
            program, observed = _observed(program, recipe, data, points, name, folder if equalize else None)
            chosen = choose_ranges(observed, points)
            ranges[name] = chosen.ranges
            notes += chosen.notes
            if fallback is not None:
                kept[name] = activations_kept_float(observed, points, chosen.ranges, fallback)
                notes.append(
                    f"{len(kept[name])} of {len(points)} activations stay float, as they cost outputs most"
                )
    quantizer = ActivationQuantizer(recipe, ranges, strict=strict, check=check, kept=kept)

    pairs = quantizer.placed(views[ran], Report())

    def finish(spec: Any, report: Report) -> None:
        report.notes += notes
        quantizer.quantize_saved(program, spec, report)

    return ActivationPlan(program, finish, lambda runs: runs.alter(changes(takers(runs), pairs)))


def _taking_alike(program: SavedProgram, function: str) -> list[str]:
    """The functions with the inputs of ``function``, itself first: they run on the same data."""
    if len(program.functions) == 1:
        return [function]
    inputs = {each.name: model_inputs(program, each.name) for each in program.functions}
    others = [name for name in inputs if name != function and inputs[name] == inputs[function]]
    return [function, *others]


def _observed(
    program: SavedProgram, recipe: Recipe, data: Any, points: Points, name: str, folder: Path | None
) -> tuple[SavedProgram, Observed]:
    """The program, or what it became under ``folder``, run over the samples."""
    tensors = frozenset(tensor for point, _ in points for tensor in point.tensors)
    observed: Observed | None = None
    if folder is not None:
        program, observed = equalized(program, data, recipe, points, folder, name)
    if observed is None:
        observed = observe(Interpreter(program, name), data, tensors)
    if observed.count < FEWEST:
        raise SampleError(
            f"{observed.samples.description}: {observed.count} sample: 8-bit activations need at least "
            f"{FEWEST}, as the range of one holds for nothing else"
        )
    return program, observed
