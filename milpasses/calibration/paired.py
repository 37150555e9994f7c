"""Weights and their biases rewritten together, and what comes of one."""

from collections.abc import Sequence
from typing import Any, Protocol

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.calibration.biases import Bias, biases_of
from milpasses.calibration.sources import StatisticsSource
from milpasses.encoding.encodings import Encoding
from milpasses.encoding.lowering import OpSpec, dense
from milpasses.program.weights import Site
from milpasses.recipe.recipe import Decision, Recipe
from milpasses.report import Record, Status


@attrs.frozen(eq=False)
class Rewritten:
    """The outcome for one site: its record, and the ops that take its place, if any.

    ``bias``: what the bias of the weight's op becomes with it, None where it stays as it is.
    """

    record: Record
    specs: list[OpSpec] | None = None
    encoding: Encoding | None = None
    bias: NDArray[Any] | None = None


class WeightRewriter(Protocol):
    """What rewrites one weight at a time: ``milpasses.rewrite.Rewriter``."""

    @property
    def recipe(self) -> Recipe:
        """What each weight is to become."""
        ...

    @property
    def calibration(self) -> StatisticsSource | None:
        """Where to ask what flows into a weight."""
        ...

    def calibrates(self, site: Site) -> bool:
        """Statistics of this site's weight are asked for, if there are any."""
        ...

    def rewrite(self, site: Site, bias: Bias | None = None) -> Rewritten:
        """The outcome for one weight; ``bias``: of the op that uses it, if it may be corrected."""
        ...

    def record(self, site: Site, decision: Decision, status: Status) -> Record:
        """The record of a site that stays as it is."""
        ...


@attrs.define(eq=False)
class PairedRewriter:
    """Applies ``rewriter`` to the ``sites`` of one program, weights and their biases together.

    Asked for each site once, in any order: whichever of a weight and its bias the program states first, the
    weight is encoded first, and the bias takes up what it loses on average.
    """

    rewriter: WeightRewriter
    sites: Sequence[Site]
    _biases: dict[Site, Bias] = attrs.field(init=False)  # by the weight that they belong to
    _weights: dict[Site, Site] = attrs.field(init=False)  # the inverse, of those that may be corrected
    _encoded: dict[Site, Rewritten] = attrs.field(factory=dict)  # weights whose biases were asked for first
    _corrected: dict[Site, NDArray[Any] | None] = attrs.field(factory=dict)  # biases whose weights came first

    def __attrs_post_init__(self) -> None:
        rewriter = self.rewriter
        calibrated = [] if rewriter.calibration is None else list(filter(rewriter.calibrates, self.sites))
        self._biases = biases_of(calibrated, self.sites, rewriter.recipe)
        self._weights = {bias: weight for weight, bias in self._biases.items() if isinstance(bias, Site)}

    def bias_of(self, site: Site) -> Site | None:
        """The bias that may be corrected for the weight of ``site``."""
        bias = self._biases.get(site)
        return bias if isinstance(bias, Site) else None

    def rewrite(self, site: Site) -> Rewritten:
        """The outcome for one site."""
        weight = self._weights.get(site)
        if weight is None:
            return self._encoded.pop(site, None) or self._rewrite(site)
        if site not in self._corrected:
            self._encoded[weight] = self._rewrite(weight)
        corrected = self._corrected.pop(site)
        return self.rewriter.rewrite(site) if corrected is None else self._replaced(site, corrected)

    def _rewrite(self, site: Site) -> Rewritten:
        bias = self._biases.get(site)
        rewritten = self.rewriter.rewrite(site, bias)
        if isinstance(bias, Site):
            self._corrected[bias] = rewritten.bias
        return rewritten

    def _replaced(self, site: Site, corrected: NDArray[Any]) -> Rewritten:
        """A bias that stays dense, with other values."""
        record = self.rewriter.record(site, self.rewriter.recipe.decide(site.weight), "kept")
        change = np.abs(corrected.astype(np.float64) - site.weight.value.astype(np.float64)).max()
        record = attrs.evolve(record, notes=("bias corrected: + (W - W') E[x]",), max_error=float(change))
        return Rewritten(record, [dense(site.weight.name, corrected)])
