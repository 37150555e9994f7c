"""Every candidate tried on every weight, one at a time: what it stores, and the error that it makes."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.budget.layer_error import LayerOutputError
from milpasses.budget.probe import Probe
from milpasses.budget.stored import FILE_HEADER, Blob, program_blobs, site_blobs, specs_bytes
from milpasses.budget.table import Option, Sensitivity, WeightOptions
from milpasses.calibration import KnownStatistics
from milpasses.calibration.encode import feedback_method
from milpasses.data.moments import Statistics
from milpasses.encoding.encodings import Encoding
from milpasses.errors import MilpassesError
from milpasses.program.opset import Opset, check_target
from milpasses.program.saved import SavedProgram
from milpasses.program.weights import Site
from milpasses.recipe.activations import split_activations
from milpasses.recipe.recipe import Recipe, Rule
from milpasses.recipe.schemes import Keep, Scheme, short_name
from milpasses.recipe.tuned import tunes
from milpasses.rewrite import Rewriter, Rewritten

Array = NDArray[Any]
Progress = Callable[[int, int, str], None]

DEFAULT = ("pal2", "pal3", "pal4", "pal6", "pal8", "pal2-g16", "pal3-g16", "pal4-g16", "pal6-g16",
           "int4-b32", "int8")  # fmt: skip
_FINE = ("pal8", "int8")  # as good as it gets
# Shares of error to probe at: far above rounding but in the linear range, and where that may have ended.
_PROBE_AT = (0.002, 0.05)
_LINEAR = 0.03  # output error up to which it is in proportion to the layers' error: no second probe is needed
Curve = tuple[tuple[float, float], ...]  # (layer error, output error), rising


def tuned_candidates(target: Opset) -> list[str]:
    """The candidates of ``target``, with error feedback where it adds something; they need statistics."""
    return [name if name in _FINE else f"{name}-gptq" for name in _defaults(target)]


def _defaults(target: Opset) -> list[str]:
    """The default candidates that the target has; the smallest forms of the newest where it has them all."""
    return [name for name in DEFAULT if target.missing(Scheme.of(name)) is None]


def read_candidates(candidates: Any, target: Opset) -> dict[str, Scheme]:
    """Candidates by their text, from schemes or texts; None gives those that the target has.

    Raises ``RecipeError`` for a text that is no scheme, ``TargetError`` for what the target lacks.
    """
    if candidates is None:
        candidates = _defaults(target)
    if isinstance(candidates, str | Scheme):
        candidates = [candidates]
    schemes: dict[str, Scheme] = {}
    for candidate in candidates:
        if isinstance(candidate, str) and split_activations(candidate)[1] is not None:
            raise MilpassesError(
                f"candidates: {candidate}: bytes are of weights, and a8 is of activations: leave it out, "
                "then put + a8 behind the default of the recipe that is found"
            )
        scheme = Scheme.of(candidate)
        if not isinstance(scheme, Keep):  # every weight may stay as it is
            check_target(scheme, target, "candidates")
            if tunes(scheme):
                raise MilpassesError(
                    f"{scheme_text(scheme)}: candidates are judged before any tuning: give them with -gptq, "
                    "and tune with the recipe that is found"
                )
            schemes[scheme_text(scheme)] = scheme
    if not schemes:
        raise MilpassesError("no candidates: name schemes such as pal4, pal6, int8")
    return schemes


def scheme_text(scheme: Scheme) -> str:
    """The shortest text that reads back as the scheme."""
    return short_name(scheme) or scheme.to_text()


@attrs.define(eq=False)
class SensitivityBuilder:
    """Makes the sensitivity table of ``program``: encodes its weights with ``candidates``; see ``build``.

    ``pins``: rules of weights that get one scheme for certain. ``probe``: runs the model; without, the errors
    are those of layers. ``exact``: run it with each candidate.
    """

    program: SavedProgram
    candidates: dict[str, Scheme]
    pins: tuple[Rule, ...] = ()
    statistics: Statistics | None = None
    probe: Probe | None = None
    exact: bool = False
    requantize: bool = False
    fixed: dict[Blob, int] = attrs.field(factory=dict)  # what ``build`` found that is not to be decided
    _pinned: Rewriter = attrs.field(init=False)
    _rewriters: dict[str, Rewriter] = attrs.field(init=False)
    _others: dict[str, Rewriter] = attrs.field(factory=dict)  # of schemes that only rules name
    _kept: dict[tuple[int, str], Encoding] = attrs.field(factory=dict)  # of error feedback, which takes long
    _room: int = 1 << 28  # bytes of encodings to keep

    def __attrs_post_init__(self) -> None:
        self._pinned = self.rewriter(Recipe(Keep(), self.pins))
        self._rewriters = {text: self.rewriter(Recipe(scheme)) for text, scheme in self.candidates.items()}

    def rewriter(self, recipe: Recipe) -> Rewriter:
        """What encodes, as ``compress`` would: with the statistics where a method needs them."""
        schemes = [recipe.default, *(rule.scheme for rule in recipe.rules)]
        calibration = None
        if any(map(feedback_method, schemes)):
            if self.statistics is None:
                named = next(scheme_text(scheme) for scheme in schemes if feedback_method(scheme))
                raise MilpassesError(
                    f"{named}: needs to know what flows into the weights: give data, or "
                    "statistics=milpasses.statistics(model, data, full=True)"
                )
            calibration = KnownStatistics(self.statistics)
        target = self.program.target
        return Rewriter(recipe, target, requantize=self.requantize, calibration=calibration)

    def variables(self, site: Site) -> list[str]:
        """The variables of a weight in the function that the probe runs; none without a probe."""
        return [] if self.probe is None else site.variables(self.probe.interpreter.function_name)

    def encoding(self, index: int, site: Site, text: str) -> Encoding | None:
        """What a candidate makes of the program's weight number ``index``; None where it is refused."""
        kept = self._kept.get((index, text))
        if kept is not None:
            return kept
        rewriter = self._rewriters.get(text) or self._others.get(text)
        if rewriter is None:
            rewriter = self._others[text] = self.rewriter(Recipe.of(text))
        return rewriter.rewrite(site).encoding

    def build(self, progress: Progress | None = None) -> Sensitivity:
        """Encode each weight once with each candidate; one weight's values are in memory at a time.

        ``progress(done, total, name)`` counts elements, before and after each weight: what a weight takes
        goes roughly by them, and networks have many small weights and few large ones.
        """
        sites = self.program.sites()
        self._check_statistics(sites)
        self._pinned.check(sites)
        blobs = program_blobs(self.program)
        weights: list[tuple[WeightOptions, Curve | None]] = []
        decided: dict[tuple[str, int], int] = {}
        elements, done = sum(site.weight.size for site in sites), 0
        for index, site in enumerate(sites):
            if progress is not None:
                progress(done, elements, site.weight.name)
            stored = site_blobs(self.program, site)
            weight = self._weight(index, site, sum(stored.values()))
            if weight is not None:
                weights.append(weight)
                decided |= stored
            self.program.package.release()
            done += site.weight.size
            if progress is not None:
                progress(done, elements, site.weight.name)
        self.fixed = {blob: nbytes for blob, nbytes in blobs.items() if blob not in decided}
        return Sensitivity(
            weights=tuple(_on_curves(weights) if self._probes else [weight for weight, _ in weights]),
            candidates=tuple(self.candidates),
            elements=elements,
            fixed_bytes=sum(self.fixed.values()) + FILE_HEADER,
            how="layers" if self.probe is None else "exact" if self.exact else "probed",
            data="" if self.statistics is None else self.statistics.data,
            notes=self.program.notes,
        )

    def _check_statistics(self, sites: Sequence[Site]) -> None:
        known = self.statistics
        names = {site.weight.name for site in sites}
        if known is not None and not names & (known.weights.keys() | known.lookups.keys()):
            raise MilpassesError(
                f"{self.program.package.path}: the statistics know none of its weights: they come from "
                "another model"
            )

    @property
    def _probes(self) -> bool:
        return self.probe is not None and not self.exact

    def _weight(self, index: int, site: Site, nbytes: int) -> tuple[WeightOptions, Curve | None] | None:
        """One weight's options, and how its errors reach the outputs; None if nothing is to be decided."""
        pinned = self._pinned.recipe.decide(site.weight).rule_index is not None
        rewriters = {"": self._pinned} if pinned else self._rewriters
        wanted = {text: rewriter for text, rewriter in rewriters.items() if not _refused(rewriter, site)}
        if not wanted:
            return None
        value = site.weight.value
        layer_error = LayerOutputError.of(site.weight, value, self.statistics)
        options: list[Option] = [] if pinned else [Option("keep", "as it is", nbytes, 0.0, 0.0)]
        refused: dict[str, str] = {}
        probing = _WeightProbe(self.probe, self.variables(site))
        for text, rewriter in wanted.items():
            rewritten = rewriter.rewrite(site)
            if rewritten.encoding is None or rewritten.specs is None:
                refused[text] = rewritten.record.reason
                continue
            if (
                self.probe is not None
                and feedback_method(rewriter.recipe.default)
                and value.size <= self._room
            ):
                self._room -= value.size  # about the bytes of its codes
                self._kept[index, text] = rewritten.encoding
            decoded = rewritten.encoding.decode()
            error = layer_error.relative(decoded)
            measured = probing.output_error(decoded) if self.exact else None
            if self._probes:
                probing.offer(decoded, error)
            options.append(_option(text, rewritten, error, measured))
        if not options or (len(options) == 1 and not pinned):
            return None
        weight = WeightOptions(
            name=site.weight.name,
            content=site.weight.content,
            shape=site.weight.shape,
            dtype=site.weight.dtype,
            nbytes=nbytes,
            options=tuple(options),
            basis="measured" if self.exact and probing.possible else layer_error.basis,
            pinned=pinned,
            refused=refused,
        )
        return weight, probing.curve() if self._probes else None


def _refused(rewriter: Rewriter, site: Site) -> bool:
    return rewriter.unwanted(site, rewriter.recipe.decide(site.weight)) is not None


def _option(text: str, rewritten: Rewritten, layer_error: float, output_error: float | None) -> Option:
    assert rewritten.specs is not None
    record = rewritten.record
    return Option(
        scheme=text or record.scheme,
        form=record.form,
        nbytes=specs_bytes(rewritten.specs),
        output_error=layer_error if output_error is None else output_error,
        layer_error=layer_error,
        sqnr_db=None if record.sqnr_db == np.inf else record.sqnr_db,
    )


@attrs.define(eq=False)
class _WeightProbe:
    """Runs the model for one weight: with each option, or twice, with little and with much error in it.

    ``variables``: those of the weight in the function that runs.
    """

    probe: Probe | None
    variables: list[str]
    _offers: dict[float, tuple[float, Array]] = attrs.field(factory=dict)

    @property
    def possible(self) -> bool:
        """The model can run, and what runs uses the weight."""
        return self.probe is not None and bool(self.variables)

    def output_error(self, decoded: Array) -> float | None:
        """The error of the model's outputs with these values; None if that cannot be known."""
        if self.probe is None or not self.variables:
            return None
        return self.probe.output_error(dict.fromkeys(self.variables, decoded))

    def offer(self, decoded: Array, layer_error: float) -> None:
        """Keep the values whose error is nearest to what a probe should have."""
        for wanted in _PROBE_AT if self.possible and layer_error > 0 else ():
            held = self._offers.get(wanted)
            if held is None or _distance(layer_error, wanted) < _distance(held[0], wanted):
                self._offers[wanted] = layer_error, decoded

    def curve(self) -> Curve | None:
        """Output error by layer error, from the values that were kept; None if nothing could be run."""
        points: list[tuple[float, float]] = []
        for layer_error, decoded in sorted(dict(self._offers.values()).items()):
            if points and points[0][1] / points[0][0] * layer_error < _LINEAR:
                break
            output_error = self.output_error(decoded)
            if output_error is not None and output_error > 0:
                points.append((layer_error, output_error))
        return tuple(points) or None


def _distance(error: float, wanted: float) -> float:
    return abs(np.log(error / wanted))


def on_curve(curve: Curve, layer_error: float) -> float:
    """The output error at a layer error: in proportion below the first point, then straight in logarithms.

    Beyond a network's linear range the outputs' error grows more slowly than the layers', never faster.
    """
    if layer_error <= curve[0][0] or len(curve) == 1:
        return layer_error * curve[0][1] / curve[0][0]
    (x0, y0), (x1, y1) = curve
    slope = min(max(np.log(y1 / y0) / np.log(x1 / x0), 0.0), 1.0)
    return float(y0 * (layer_error / x0) ** slope)


def _on_curves(weights: list[tuple[WeightOptions, Curve | None]]) -> list[WeightOptions]:
    """Options with their output errors; a weight without a curve has the median gain of the others."""
    gains = [curve[0][1] / curve[0][0] for _, curve in weights if curve]
    median = float(np.median(gains)) if gains else 1.0
    predicted: list[WeightOptions] = []
    for weight, curve in weights:
        known = curve or ((1.0, median),)
        options = [attrs.evolve(o, output_error=on_curve(known, o.layer_error)) for o in weight.options]
        gain = known[0][1] / known[0][0]
        predicted.append(attrs.evolve(weight, gain=gain, options=tuple(options)))
    return predicted
