"""Every candidate tried on every weight, one at a time: what it stores, and what it damages."""

from collections.abc import Callable, Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.budget.damage import Meter
from milpasses.budget.probe import Probe
from milpasses.budget.stored import program_blobs, site_blobs, specs_bytes
from milpasses.budget.table import Option, Sensitivity, WeightOptions
from milpasses.calibration import Given
from milpasses.calibration.encode import feedback_method
from milpasses.data.moments import Statistics
from milpasses.encoding.encodings import Encoding
from milpasses.errors import MilpassesError
from milpasses.program.opset import Opset, check_target
from milpasses.program.saved import SavedProgram
from milpasses.program.weights import Site
from milpasses.recipe.recipe import Recipe, Rule
from milpasses.recipe.schemes import Keep, Scheme, short_name
from milpasses.rewrite import Rewriter, Rewritten

Array = NDArray[Any]
Progress = Callable[[int, int, str], None]

DEFAULT = ("pal2", "pal3", "pal4", "pal6", "pal8", "pal2-g16", "pal3-g16", "pal4-g16", "pal6-g16",
           "int4-b32", "int8")  # fmt: skip
_FINE = ("pal8", "int8")  # as good as it gets
# Shares of error to probe at: far above rounding but in the linear range, and where that may have ended.
_PROBE_AT = (0.002, 0.05)
_LINEAR = 0.03  # damage to which it is taken to be in proportion to the error: the second probe is left out
Curve = tuple[tuple[float, float], ...]  # (share of error, damage), rising


def tuned_candidates(target: Opset) -> list[str]:
    """The candidates of ``target``, with error feedback where it adds something; they need statistics."""
    return [name if name in _FINE else f"{name}-gptq" for name in _defaults(target)]


def _defaults(target: Opset) -> list[str]:
    """The default candidates that the target has; the smallest forms of the newest where it has them all."""
    return [name for name in DEFAULT if target.missing(Scheme.of(name)) is None]


def read_candidates(given: Any, target: Opset) -> dict[str, Scheme]:
    """Candidates by their text, from schemes or texts; None gives those that the target has.

    Raises ``RecipeError`` for a text that is no scheme, ``TargetError`` for what the target lacks.
    """
    if given is None:
        given = _defaults(target)
    if isinstance(given, str | Scheme):
        given = [given]
    found: dict[str, Scheme] = {}
    for one in given:
        scheme = Scheme.of(one)
        if not isinstance(scheme, Keep):  # every weight has it as it is
            check_target(scheme, target, "--candidates")
            found[scheme_text(scheme)] = scheme
    if not found:
        raise MilpassesError("no candidates: name schemes such as pal4, pal6, int8")
    return found


def scheme_text(scheme: Scheme) -> str:
    """The shortest text that reads back as the scheme."""
    return short_name(scheme) or scheme.to_text()


@attrs.define(eq=False)
class Trial:
    """Tries ``candidates`` on the weights of ``program``; see ``run``."""

    program: SavedProgram
    candidates: dict[str, Scheme]
    pins: tuple[Rule, ...] = ()
    statistics: Statistics | None = None
    probe: Probe | None = None
    exact: bool = False
    requantize: bool = False
    function: str = "main"
    _pinned: Rewriter = attrs.field(init=False)
    _tried: dict[str, Rewriter] = attrs.field(init=False)
    _others: dict[str, Rewriter] = attrs.field(factory=dict)  # of schemes that only rules name
    _kept: dict[tuple[int, str], Encoding] = attrs.field(factory=dict)  # of error feedback, which takes long
    _room: int = 1 << 28  # bytes of encodings to keep

    def __attrs_post_init__(self) -> None:
        self._pinned = self.rewriter(Recipe(Keep(), self.pins))
        self._tried = {text: self.rewriter(Recipe(one)) for text, one in self.candidates.items()}

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
            calibration = Given(self.statistics)
        target = self.program.target
        return Rewriter(recipe, target, requantize=self.requantize, calibration=calibration)

    def encoding(self, index: int, site: Site, text: str) -> Encoding | None:
        """What a candidate makes of the program's weight number ``index``; None where it is refused."""
        kept = self._kept.get((index, text))
        if kept is not None:
            return kept
        rewriter = self._tried.get(text) or self._others.get(text)
        if rewriter is None:
            rewriter = self._others[text] = self.rewriter(Recipe.of(text))
        return rewriter.rewrite(site).encoding

    def run(self, progress: Progress | None = None) -> Sensitivity:
        """Encode each weight once with each candidate; one weight's values are in memory at a time."""
        sites = self.program.sites()
        self._check_statistics(sites)
        self._pinned.check(sites)
        blobs = program_blobs(self.program)
        weights: list[tuple[WeightOptions, Curve | None]] = []
        decided: dict[tuple[str, int], int] = {}
        for index, site in enumerate(sites):
            mine = site_blobs(self.program, site)
            one = self._weight(index, site, sum(mine.values()))
            if one is not None:
                weights.append(one)
                decided |= mine
            self.program.package.release()
            if progress is not None:
                progress(index + 1, len(sites), site.weight.name)
        return Sensitivity(
            weights=tuple(_on_curves(weights) if self._probes else [one for one, _ in weights]),
            candidates=tuple(self.candidates),
            elements=sum(one.weight.size for one in sites),
            fixed_bytes=sum(blobs.values()) - sum(decided.values()) + 64,  # the file's own header
            how="layers" if self.probe is None else "exact" if self.exact else "probed",
            data="" if self.statistics is None else self.statistics.data,
        )

    def _check_statistics(self, sites: Sequence[Site]) -> None:
        found = self.statistics
        names = {one.weight.name for one in sites}
        if found is not None and not names & (found.weights.keys() | found.lookups.keys()):
            raise MilpassesError(
                f"{self.program.package.path}: the statistics know none of its weights: they come from "
                "another model"
            )

    @property
    def _probes(self) -> bool:
        return self.probe is not None and not self.exact

    def _weight(self, index: int, site: Site, nbytes: int) -> tuple[WeightOptions, Curve | None] | None:
        """The options of one weight, and how damage grows with error; None if nothing is to be decided."""
        pinned = self._pinned.recipe.decide(site.weight).rule_index is not None
        tried = {"": self._pinned} if pinned else self._tried
        wanted = {text: one for text, one in tried.items() if not _refused(one, site)}
        if not wanted:
            return None
        value = site.weight.value
        meter = Meter.of(site.weight, value, self.statistics)
        options: list[Option] = [] if pinned else [Option("keep", "as it is", nbytes, 0.0, 0.0)]
        refused: dict[str, str] = {}
        runs = _Runs(self.probe, [variable for name, variable in site.places if name == self.function])
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
            share = meter.share(decoded)
            damage = runs.damage(decoded) if self.exact else None
            if self._probes:
                runs.offer(decoded, share)
            options.append(_option(text, rewritten, share, damage))
        if not options or (len(options) == 1 and not pinned):
            return None
        weight = WeightOptions(
            name=site.weight.name,
            content=site.weight.content,
            shape=site.weight.shape,
            dtype=site.weight.dtype,
            nbytes=nbytes,
            options=tuple(options),
            basis="measured" if self.exact and runs.possible else meter.basis,
            pinned=pinned,
            refused=refused,
        )
        return weight, runs.curve() if self._probes else None


def _refused(rewriter: Rewriter, site: Site) -> bool:
    return rewriter.unwanted(site, rewriter.recipe.decide(site.weight)) is not None


def _option(text: str, rewritten: Rewritten, share: float, damage: float | None) -> Option:
    assert rewritten.specs is not None
    record = rewritten.record
    return Option(
        scheme=text or record.scheme,
        form=record.form,
        nbytes=specs_bytes(rewritten.specs),
        damage=share if damage is None else damage,
        share=share,
        sqnr_db=None if record.sqnr_db == np.inf else record.sqnr_db,
    )


@attrs.define(eq=False)
class _Runs:
    """The runs of the model for one weight: one for each option, or two, with little and with much error."""

    probe: Probe | None
    variables: list[str]
    _offers: dict[float, tuple[float, Array]] = attrs.field(factory=dict)

    @property
    def possible(self) -> bool:
        """The model can run, and what runs uses the weight."""
        return self.probe is not None and bool(self.variables)

    def damage(self, decoded: Array) -> float | None:
        """What the model's outputs lose with these values; None if that cannot be known."""
        if self.probe is None or not self.variables:
            return None
        return self.probe.share(dict.fromkeys(self.variables, decoded))

    def offer(self, decoded: Array, share: float) -> None:
        """Keep the values whose error is nearest to what a probe should have."""
        for wanted in _PROBE_AT if self.possible and share > 0 else ():
            held = self._offers.get(wanted)
            if held is None or _distance(share, wanted) < _distance(held[0], wanted):
                self._offers[wanted] = share, decoded

    def curve(self) -> Curve | None:
        """Damage by share of error, from the values that were kept; None if nothing could be run."""
        points: list[tuple[float, float]] = []
        for share, decoded in sorted(dict(self._offers.values()).items()):
            if points and points[0][1] / points[0][0] * share < _LINEAR:
                break
            damage = self.damage(decoded)
            if damage is not None and damage > 0:
                points.append((share, damage))
        return tuple(points) or None


def _distance(share: float, wanted: float) -> float:
    return abs(np.log(share / wanted))


def on_curve(curve: Curve, share: float) -> float:
    """The damage at a share of error: in proportion below the first point, then straight in logarithms.

    Beyond a network's linear range damage grows more slowly than the error, never faster.
    """
    if share <= curve[0][0] or len(curve) == 1:
        return share * curve[0][1] / curve[0][0]
    (x0, y0), (x1, y1) = curve
    slope = min(max(np.log(y1 / y0) / np.log(x1 / x0), 0.0), 1.0)
    return float(y0 * (share / x0) ** slope)


def _on_curves(weights: list[tuple[WeightOptions, Curve | None]]) -> list[WeightOptions]:
    """Options with their damages; a weight that could not be probed has the median gain of the others."""
    gains = [curve[0][1] / curve[0][0] for _, curve in weights if curve]
    median = float(np.median(gains)) if gains else 1.0
    found: list[WeightOptions] = []
    for one, curve in weights:
        known = curve or ((1.0, median),)
        options = [attrs.evolve(o, damage=on_curve(known, o.share) if o.share else 0.0) for o in one.options]
        found.append(attrs.evolve(one, gain=known[0][1] / known[0][0], options=tuple(options)))
    return found
