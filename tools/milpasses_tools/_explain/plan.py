"""What a recipe would do to a model: every weight is encoded, nothing is written."""

from collections.abc import Callable
from typing import Any

import attrs

from milpasses.encoding.encodings import Encoding
from milpasses.errors import MilpassesError, Refusal, TargetError
from milpasses.program.opset import Opset, check_activations, compressible, lowest_opset, raised_note
from milpasses.program.saved import SavedProgram
from milpasses.program.weights import Site
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.unmatched import unmatched_rules
from milpasses.report import Record, Report
from milpasses.rewrite import Rewriter, Rewritten
from milpasses_tools._explain.why import rule_text, what_would_change
from milpasses_tools._progress import Progress

Look = Callable[[Site, "Encoding | None", str], None]


@attrs.frozen
class Planned:
    """A weight under the recipe: its record as it would be, what decides, and what would change that."""

    record: Record
    rule: str
    change: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.record.row(), "rule": self.rule, "change": self.change}


@attrs.frozen
class Plan:
    """What a recipe would do.

    ``refused`` says why compress would not even begin, if so; ``unmatched``: rules that decide no weight;
    ``notes``: what compress would do to the model first.
    """

    recipe: str
    target: str
    weights: tuple[Planned, ...]
    totals: dict[str, Any]
    refused: str = ""
    unmatched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return {
            "recipe": self.recipe,
            "target": self.target,
            "refused": self.refused,
            "unmatched": list(self.unmatched),
            "notes": list(self.notes),
            "totals": self.totals,
            "weights": [one.to_dict() for one in self.weights],
        }


def make_plan(
    program: SavedProgram,
    sites: list[Site],
    recipe: Any,
    target: Opset,
    requantize: bool = False,
    progress: Progress | None = None,
    look: Look | None = None,
) -> Plan:
    """Encode each of ``sites``, the weights of ``program``, as compress would, and keep the records.

    ``look`` is shown each site with its new encoding (None where it stays) and the op that would hold it.
    """
    recipe = Recipe.of(recipe)
    notes: list[str] = []
    raised = compressible(target)
    if raised is not target:
        notes.append(raised_note(target, raised))
        target = raised
    rewriter = Rewriter(recipe, target, requantize=requantize)
    planned: list[Planned] = []
    refusals: list[str] = []
    if recipe.wants_activations:
        notes.append("8-bit activations: data decides their ranges, so they are not in this plan")
        try:
            check_activations(target)
        except TargetError as error:
            refusals.append(str(error))
    for index, site in enumerate(sites, 1):
        decision = recipe.decide(site.weight)
        rewritten = _rewrite(rewriter, site, refusals)
        record = rewritten.record
        change = ""
        if record.status != "compressed":
            change = what_would_change(site, decision, target, record.refusal)
        planned.append(Planned(record, rule_text(recipe, decision.rule_index), change))
        if look is not None:
            look(site, rewritten.encoding, rewritten.specs[-1].op_type if rewritten.specs else "")
        if progress is not None:
            progress(index, len(sites), site.weight.name)
        program.package.release()
    totals = Report(str(recipe), [one.record for one in planned]).totals()
    unmatched = tuple(unmatched_rules(recipe, [site.weight for site in sites]))
    refused = refusals[0] if refusals else ""
    return Plan(str(recipe), target.name, tuple(planned), totals, refused, unmatched, tuple(notes))


def _rewrite(rewriter: Rewriter, site: Site, refusals: list[str]) -> Rewritten:
    """The outcome for one site; where compress would refuse the model, the weight is skipped."""
    decision = rewriter.recipe.decide(site.weight)
    try:
        rewriter.check([site])
    except TargetError as error:
        refusals.append(str(error))
        need, since = rewriter.target.missing(decision.scheme), lowest_opset([decision.scheme]).name
        refusal = Refusal("target", need=need, since=since, target=rewriter.target.name)
        return Rewritten(rewriter.record(site, decision, "skipped", refusal))
    except MilpassesError as error:  # a scheme that has to be calibrated
        refusals.append(str(error))
        return Rewritten(
            rewriter.record(
                site, decision, "skipped", Refusal("needs-calibration", scheme=str(decision.scheme))
            )
        )
    return rewriter.rewrite(site)
