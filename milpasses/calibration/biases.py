"""Biases that make up for what the weights of their ops lose on average.

A weight and its bias are rewritten together, whichever of them the program states first. Left alone are
biases that other ops or functions use, too, those in the program's text (of fewer than ten elements), and
those of which a rule of the recipe says ``keep``.
"""

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.lowering import OpSpec, Stored
from milpasses.program.weights import Site
from milpasses.recipe.schemes import Keep
from milpasses.rewrite import FLOATS, Rewriter, Rewritten

_OPS = ("conv", "linear")  # a conv_transpose's taps are not told apart, so its mean output is not known


@attrs.define(eq=False)
class Rewriting:
    """Applies ``rewriter`` to the ``sites`` of one program; asked for each of them once, in any order."""

    rewriter: Rewriter
    sites: Sequence[Site]
    _biases: dict[int, Site | str] = attrs.field(init=False)  # by the weight they belong to
    _weights: dict[int, Site] = attrs.field(init=False)  # the inverse, of those that may be corrected
    _ahead: dict[int, Rewritten] = attrs.field(factory=dict)  # weights whose biases came first
    _corrected: dict[int, NDArray[Any] | None] = attrs.field(factory=dict)  # biases whose weights came first

    def __attrs_post_init__(self) -> None:
        self._biases = _biases(self.rewriter, self.sites)
        known = [(site, self._biases.get(id(site))) for site in self.sites]
        self._weights = {id(bias): weight for weight, bias in known if isinstance(bias, Site)}

    def rewrite(self, site: Site) -> Rewritten:
        """The outcome for one site."""
        weight = self._weights.get(id(site))
        if weight is None:
            return self._ahead.pop(id(site), None) or self._rewrite(site)
        if id(site) not in self._corrected:
            self._ahead[id(weight)] = self._rewrite(weight)
        corrected = self._corrected.pop(id(site))
        return self.rewriter.rewrite(site) if corrected is None else self._replaced(site, corrected)

    def _rewrite(self, site: Site) -> Rewritten:
        bias = self._biases.get(id(site))
        rewritten = self.rewriter.rewrite(site, bias)
        if isinstance(bias, Site):
            self._corrected[id(bias)] = rewritten.bias
        return rewritten

    def _replaced(self, site: Site, corrected: NDArray[Any]) -> Rewritten:
        """A bias that stays dense, with other values."""
        decision = self.rewriter.recipe.decide(site.weight)
        record = self.rewriter.record(site, decision, "kept", "bias corrected: + (W - W') E[x]")
        change = np.abs(corrected.astype(np.float64) - site.weight.value.astype(np.float64)).max()
        dtype = corrected.dtype.name
        stored: dict[str, Any] = {"val": Stored(corrected, dtype)}
        spec = OpSpec("const", site.weight.name, stored, ((corrected.shape, dtype),))
        return Rewritten(attrs.evolve(record, max_error=float(change)), [spec])


def _biases(rewriter: Rewriter, sites: Sequence[Site]) -> dict[int, Site | str]:
    """Of each weight's site that is to be calibrated, by identity: its bias, or why that is left alone."""
    if rewriter.calibration is None:
        return {}
    users: dict[tuple[str, str, str], list[Site]] = {}
    for site in sites:
        for use in site.weight.consumers:
            if use.op_type in _OPS:
                users.setdefault((use.op_type, use.op_name, use.param), []).append(site)

    def of(weight: Site, param: str) -> list[Site]:
        """What the one op that uses ``weight`` takes as ``param``; several if its name is no name."""
        use, here = weight.weight.consumers[0], set(weight.weight.functions)
        every = users.get((use.op_type, use.op_name, param), [])
        return [one for one in every if here & set(one.weight.functions)]

    found: dict[int, Site | str] = {}
    for site in sites:
        if len(site.weight.consumers) == 1 and rewriter.calibrates(site):
            biases = of(site, "bias")
            if of(site, "weight") == [site] and len(biases) == 1:
                found[id(site)] = _why_not(rewriter, site, biases[0]) or biases[0]
    return found


def _why_not(rewriter: Rewriter, weight: Site, bias: Site) -> str:
    """Why ``bias`` must stay as it is, or nothing."""
    one = bias.weight
    if len(one.consumers) > 1 or set(one.functions) != set(weight.weight.functions):
        return f"{one.name} has other uses"
    if bias.blocked or bias.existing is not None:
        return f"{one.name}: {bias.blocked or 'compressed already'}"
    if one.dtype not in FLOATS or one.shape != weight.weight.shape[:1]:
        return f"{one.name} is {one.dtype} of shape {one.shape}"
    decision = rewriter.recipe.decide(one)
    if isinstance(decision.scheme, Keep) and decision.rule_index is not None:
        return f"a rule keeps {one.name}"
    return ""
