"""Channels of one tensor scaled alike before they share a grid: exact but for the rounding of the weights.

What makes a channel is divided by its scale and what takes it multiplies by it. Tried are the scales of
cross-layer equalization (Nagel et al., Data-Free Quantization, 2019) and of SmoothQuant (Xiao et al., 2022)
for several exponents; of these, and of leaving all as it is, the one that held-out outputs gain by is kept,
first for all pairs and then for stretches of them. Outputs are measured with activations and weights rounded.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.activations.altered import AlteredRuns
from milpasses.activations.grid import ActivationRange
from milpasses.activations.observed import Observed, observe
from milpasses.activations.pairs import Placed
from milpasses.activations.pairs_to_equalize import Pair, find_pairs
from milpasses.activations.ranges import Points, Unit, stretches, units_of
from milpasses.encoding.encoder import Encoder
from milpasses.encoding.lowering import dense
from milpasses.errors import MilpassesError, Refusal
from milpasses.interpreter import Interpreter
from milpasses.program.package import open_package, write_package
from milpasses.program.saved import SavedProgram
from milpasses.program.weights import Site
from milpasses.program.writer import SavedCopy
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.schemes import Keep
from milpasses.report import decibels

Array = NDArray[Any]
Span = tuple[Array, Array]  # the smallest and the largest value of each channel
_EXPONENTS = (0.5, 0.75, 1.0)
_LARGEST = 2.0**12  # of a scale: beyond it float16 has no room
_CAP, _MARGIN = 6.0, 1.25
_CLEARLY = 0.95  # of the error
_RUNS = 16
_AS_IT_IS = "as it is"


def equalized(
    program: SavedProgram, data: Any, recipe: Recipe, points: Points, folder: Path, function: str
) -> tuple[SavedProgram, Observed | None]:
    """``program`` with its channels equalized where that helps the 8-bit activations at ``points``.

    Its notes say what was done and what it gained; it is written under ``folder``. Where nothing gains, data
    are fewer than ``observed.ENOUGH`` samples, or there are several functions, it is ``program`` itself, with
    what its run over ``data`` gave, if it ran.
    """
    if len(program.functions) != 1 or not points:
        return program, None
    interpreter = Interpreter(program, function)
    sites = {variable: site for site in program.sites() for variable in site.variables(function)}
    pairs = find_pairs(interpreter.function, sites)
    if not pairs:
        return program, None
    spans = ChannelSpans({name: pair.axis for pair in pairs for name in pair.tensors})
    tensors = frozenset(tensor for point, _ in points for tensor in point.tensors)
    observed = observe(interpreter, data, tensors, observers=[spans])
    units = units_of(points, observed.ranges, observed.fit)
    if not observed.held_out or not units:
        return program, observed
    runs = AlteredRuns(interpreter, observed.deciding(_RUNS))
    trial = _Trial(interpreter, runs, units, pairs, spans.found, _rounding(program, recipe))
    chosen = trial.chosen() if runs.comparable else None
    if chosen is None or not all(np.isfinite(value).all() for value in chosen.values.values()):
        return program, observed
    return _written(program, chosen, folder), None


@attrs.define(eq=False)
class _Chosen:
    values: dict[Site, Array]
    note: str


@attrs.define(eq=False)
class _Trial:
    """Measures what scales of channels do to the outputs."""

    interpreter: Interpreter
    runs: AlteredRuns
    units: Sequence[Unit]
    pairs: Sequence[Pair]
    spans: Mapping[str, Span]
    rounded: Callable[[Site, Array], Array]
    _originals: dict[Site, Array] = attrs.field(factory=dict)
    _as_rounded: dict[Site, Array] = attrs.field(factory=dict)  # of the originals

    def chosen(self) -> _Chosen | None:
        """The weights to change, None where nothing clearly gains."""
        methods = [_AS_IT_IS, "cross-layer", *(f"migration {each:g}" for each in _EXPONENTS)]
        families = {method: self.error([method] * len(self.pairs)) for method in methods}
        order = sorted(methods, key=families.__getitem__)
        best, error = [order[0]] * len(self.pairs), families[order[0]]
        others = [order[1], *([_AS_IT_IS] if order[0] != _AS_IT_IS != order[1] else [])]
        for stretch in stretches(len(self.pairs)):
            for method in others:
                tried = [method if place in stretch else known for place, known in enumerate(best)]
                measured = self.error(tried)
                if measured < _CLEARLY * error:
                    best, error = tried, measured
        if error >= _CLEARLY * families[_AS_IT_IS]:
            return None
        scales = self.scales(best)
        done = [pair.name for pair, method in zip(self.pairs, best, strict=True) if method != _AS_IT_IS]
        before, after = (decibels(1.0, each) for each in (families[_AS_IT_IS], error))
        kinds = ", ".join(sorted({method for method in best if method != _AS_IT_IS}))
        note = (
            f"channels of {len(done)} tensors equalized ({kinds}; {', '.join(done)}): held-out outputs with "
            f"rounded weights and min/max ranges {before:.1f} -> {after:.1f} dB"
        )
        return _Chosen(self.values(scales), note)

    def error(self, methods: Sequence[str]) -> float:
        """Of the outputs, with the pairs equalized by ``methods``."""
        scales = self.scales(methods)
        values = self.values(scales)
        changed = {site: self.rounded(site, value) for site, value in values.items()}
        for site in self._rounded_sites():
            if site not in changed:
                if site not in self._as_rounded:
                    self._as_rounded[site] = self.rounded(site, self._value(site))
                changed[site] = self._as_rounded[site]
        name = self.interpreter.function_name
        self.interpreter.override(
            {variable: value for site, value in changed.items() for variable in site.variables(name)}
        )
        try:
            return self.runs.error(self._placed(scales))
        finally:
            self.interpreter.override({})

    def scales(self, methods: Sequence[str]) -> list[Array]:
        """The scale of each channel of each pair, float64."""
        return [self._scale(pair, method) for pair, method in zip(self.pairs, methods, strict=True)]

    def values(self, scales: Sequence[Array]) -> dict[Site, Array]:
        """The constants that the scales change, in their own types."""
        found: dict[Site, Array] = {}
        for pair, scale in zip(self.pairs, scales, strict=True):
            if (scale == 1).all():
                continue
            for site in pair.producers:
                value = found.get(site, self._value(site).astype(np.float64))
                found[site] = value / scale.reshape(-1, *(1 for _ in value.shape[1:]))
            for consumer in pair.consumers:
                value = found.get(consumer.site, self._value(consumer.site).astype(np.float64))
                found[consumer.site] = value * consumer.spread(scale)
        with np.errstate(over="ignore"):
            return {site: value.astype(site.weight.dtype) for site, value in found.items()}

    def _scale(self, pair: Pair, method: str) -> Array:
        ones = np.ones(pair.channels)
        if method == _AS_IT_IS:
            return ones
        low, high = self.spans[pair.tensors[-1]]
        activations = np.maximum(np.abs(low), np.abs(high))
        weights = np.max([each.largest(self._value(each.site)) for each in pair.consumers], axis=0)
        if method == "cross-layer":
            value = np.abs(self._value(pair.producers[0]).astype(np.float64))
            made = value.reshape(pair.channels, -1).max(axis=1)
            top, bottom, exponent = made, weights, 0.5
        else:
            top, bottom, exponent = activations, weights, float(method.split()[1])
        known = (top > 0) & (bottom > 0) & (activations > 0)
        if not known.any():
            return ones
        raw = np.where(known, top, 1) ** exponent / np.where(known, bottom, 1) ** (1 - exponent)
        middle = np.exp(np.log(raw[known]).mean())
        scale = np.where(known, np.clip(raw / middle, 1 / _LARGEST, _LARGEST), 1)
        for name in pair.capped:
            scale = _uncapped(scale, self.spans[name][1])
        return scale

    def _placed(self, scales: Sequence[Array]) -> list[Placed]:
        """Min/max grids, of the tensors of the pairs as they are once scaled."""
        moved: dict[str, tuple[float, float]] = {}
        for pair, scale in zip(self.pairs, scales, strict=True):
            for name in pair.tensors:
                low, high = self.spans[name]
                moved[name] = float((low / scale).min()), float((high / scale).max())
        placed: list[Placed] = []
        for unit in self.units:
            ends = [moved.get(name, (part.low, part.high)) for name, part in unit.parts.items()]
            low, high = min(end[0] for end in ends), max(end[1] for end in ends)
            placed += unit.placed(ActivationRange(low, high))
        return placed

    def _rounded_sites(self) -> list[Site]:
        return [
            site
            for pair in self.pairs
            for site in (*pair.producers[:1], *(each.site for each in pair.consumers))
            if site.weight.rank > 1
        ]

    def _value(self, site: Site) -> Array:
        if site not in self._originals:
            self._originals[site] = site.weight.value
        return self._originals[site]


def _uncapped(scale: Array, largest: Array) -> Array:
    """Scales that let no channel reach the cap which stayed under it with a margin; 1 for the others."""
    below = largest * _MARGIN < _CAP
    return np.where(below, np.maximum(scale, largest * _MARGIN / _CAP), 1.0)


def _rounding(program: SavedProgram, recipe: Recipe) -> Callable[[Site, Array], Array]:
    """What ``recipe`` makes of a weight with other values; the values where it leaves them."""

    def rounded(site: Site, value: Array) -> Array:
        scheme = recipe.decide(site.weight).scheme
        if site.weight.rank < 2 or isinstance(scheme, Keep) or not np.isfinite(value).all():
            return value
        try:
            return Encoder(site.weight, program.target.generation).encode(value, scheme).decode()
        except (Refusal, MilpassesError):
            return value

    return rounded


class ChannelSpans:
    """An observer: the smallest and the largest value of each channel; ``axes``: of them in each tensor."""

    def __init__(self, axes: Mapping[str, int]) -> None:
        self.found: dict[str, Span] = {}
        self._axes = axes

    def __call__(self, op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        for variable, value in zip(op.outputs, outputs, strict=True):
            axis = self._axes.get(variable.name)
            if axis is None:
                continue
            rows = np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)
            low, high = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
            known = self.found.get(variable.name, (low, high))
            self.found[variable.name] = np.minimum(low, known[0]), np.maximum(high, known[1])


def _written(program: SavedProgram, chosen: _Chosen, folder: Path) -> SavedProgram:
    path = folder / "equalized.mlpackage"

    def write_weights(inside: Path) -> Any:
        copy = SavedCopy(program, inside)
        copy.replace(list(chosen.values), lambda site: [dense(site.weight.name, chosen.values[site])])
        return copy.spec

    write_package(program.package, path, write_weights)
    notes = (*program.notes, chosen.note)
    return SavedProgram(open_package(path), program.load_options, notes=notes)
