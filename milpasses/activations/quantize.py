"""Pairs for a whole program: ranges become grids, points that have none stay float and say why."""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import attrs

from milpasses.activations.grid import ActivationRange, grid_of
from milpasses.activations.pairs import Placed, insert_memory, insert_saved
from milpasses.activations.points import CORE, ON_REQUEST, Point, find_points
from milpasses.data.moments import Range
from milpasses.errors import MilpassesError, Refusal
from milpasses.program.graph import FunctionGraph
from milpasses.program.memory import MemoryProgram
from milpasses.program.opset import check_activations
from milpasses.program.saved import SavedFunction, SavedProgram
from milpasses.recipe.activations import Activations
from milpasses.recipe.names import saved_name
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.unmatched import find_unmatched_activations
from milpasses.report import ActivationRecord, Report

Ranges = Mapping[str, "ActivationRange | Range"]


def wanted_points(
    recipe: Recipe, function: FunctionGraph, kept: Collection[str] = ()
) -> list[tuple[Point, Activations]]:
    """The points of ``function`` where ``recipe`` asks for 8 bits, and what it asks.

    That is what it says of the first op that takes the tensor, or of the one whose output it is. ``kept``:
    names of ops that stay float.
    """

    def wanted(op_type: str, op_name: str) -> bool:
        asked, by_rule = recipe.activations_of(op_type, op_name)
        return asked is not None and (op_type in CORE or by_rule) and op_name not in kept

    kinds = {function.op_name(op): function.op_type(op) for op in function.body()}
    found: list[tuple[Point, Activations]] = []
    for point in find_points(function, wanted):
        name = point.uses[0].op_name if point.uses else point.core
        asked, _ = recipe.activations_of(kinds[name], name)
        assert asked is not None  # ``wanted`` says so of every op that has a point
        found.append((point, asked))
    return found


@attrs.frozen
class ActivationQuantizer:
    """Applies the activations of ``recipe``, with ``ranges`` of tensors by the name of the function.

    A function without any stays float, and its records say so. ``keep_points``: a tensor that never varies
    stays float, as its samples say nothing of the values between; coremltools gives it the grid of what it
    was. ``strict``: a rule that is for no op is an error.
    """

    recipe: Recipe
    ranges: Mapping[str, Ranges]
    keep_points: bool = True
    strict: bool = False

    def quantize_saved(self, program: SavedProgram, spec: Any, report: Report) -> int:
        """Put pairs into ``spec``, ``program`` with other weights; returns the number of ``quantize`` ops."""
        check_activations(program.target)
        views: list[tuple[SavedFunction, Any]] = []
        for function in program.functions:
            message = spec.mlProgram.functions[function.name]
            block = message.block_specializations[message.opset]
            view = SavedFunction(program.package, function.name, function.target, block)
            views.append((view, message.inputs))
        self._check_rules([view for view, _ in views], report)
        plans = [(view.block, self._placed(view, report), inputs) for view, inputs in views]
        self._check(report)
        return sum(insert_saved(*plan) for plan in plans)

    def quantize_memory(self, program: MemoryProgram, report: Report) -> int:
        """Put pairs into a program in memory; returns the number of ``quantize`` ops."""
        check_activations(program.target)
        self._check_rules(program.functions, report)
        blocks = program.program.functions
        plans = [(blocks[view.name], self._placed(view, report)) for view in program.functions]
        self._check(report)
        return sum(insert_memory(*plan) for plan in plans)

    def _check_rules(self, functions: Iterable[Any], report: Report) -> None:
        """Say of each rule that decides none of the ops that can have 8-bit activations."""
        if self.recipe.activation_rules:
            ops = ((view.op_type(op), view.op_name(op)) for view in functions for op in view.body())
            able = (op for op in ops if op[0] in (*CORE, *ON_REQUEST))
            find_unmatched_activations(report, self.recipe, able, self.strict)

    def _check(self, report: Report) -> None:
        """Refuse data that says nothing of any activation: nothing was changed yet."""
        records = report.activations
        if records and not any(record.status == "quantized" for record in records):
            first = records[0]
            raise MilpassesError(f"no activation can be quantized: {first.name}: {first.reason}")

    def _placed(self, function: Any, report: Report) -> list[Placed]:
        placed: list[Placed] = []
        ranges = self.ranges.get(function.name, {})
        for point, settings in wanted_points(self.recipe, function):
            span = self._range(point, ranges)
            uses = tuple(f"{use.op_name}:{use.op_type}.{use.param}" for use in point.uses)
            about: dict[str, Any] = {"tensors": point.tensors, "uses": uses, "function": function.name}
            if isinstance(span, Refusal):
                report.activations.append(ActivationRecord(point.name, "float", refusal=span, **about))
                continue
            half = point.dtype == "float16"
            grid = grid_of(span.low, span.high, settings.mode, settings.dtype, half=half)
            placed.append(Placed(point, grid))
            report.activations.append(
                ActivationRecord(
                    point.name, "quantized", grid.dtype, span.low, span.high, grid.scale, grid.zero_point,
                    span.method, span.sqnr_db, **about,
                )
            )  # fmt: skip
        return placed

    def _range(self, point: Point, ranges: Ranges) -> "ActivationRange | Refusal":
        known = [each for name in point.tensors if (each := of_tensor(ranges, name)) is not None]
        if of_tensor(ranges, point.name) is None:
            return Refusal("no-range")
        bad = sum(each.nonfinite for each in known if isinstance(each, Range))
        if bad:
            return Refusal("nonfinite-activation", count=bad)
        spans = [ActivationRange(r.min, r.max) if isinstance(r, Range) else r for r in known]
        span = spans[0]
        for other in spans[1:]:
            span |= other
        if self.keep_points and span.low == span.high:
            return Refusal("point-range", value=span.low)
        return span


def of_tensor(known: Mapping[str, Any], name: str) -> Any:
    """What is known of a tensor, else None; statistics of a saved program have its name as it is saved."""
    if name in known:
        return known[name]
    return known.get(saved_name(name, before_digit="_"))
