"""Why a weight is stored as it is: the rule that decided, and what would change that."""

from collections.abc import Mapping
from typing import Any

import attrs

from milpasses.errors import MilpassesError, Refusal
from milpasses.program.opset import Opset, compressible, lowest_opset
from milpasses.program.weights import Site
from milpasses.recipe import Decision, Keep, Palettize, Prune, Recipe, Scheme, literal, short_name
from milpasses.rewrite import FLOATS

_REMEDIES = {
    "not-smaller": "fewer bits, or fewer scales and tables: larger groups or blocks",
    "small-table": "a larger table: more bits, or the table as it is (without the + int8)",
    "few-nonzeros": "a larger table: more bits, or the table as it is (without the + int8)",
    "low-sparsity": "a lower minimum_sparsity_percentile, or target_sparsity instead",
    "too-many-unique": "mode=kmeans (pal8), which makes 256 values of them",
    "unstructured-op": "target_sparsity without block_size",
    "block-too-wide": "a smaller block_size",
    "ratio-too-wide": "a smaller m in n_m_ratio",
}


def scheme_text(scheme: Scheme) -> str:
    """The short name of a scheme, else its text."""
    return short_name(scheme) or str(scheme)


def rule_text(recipe: Recipe, index: int | None) -> str:
    """A rule of the recipe as reports name it: ``rule 1: op_type=conv -> int8``, ``default: pal4``."""
    if index is None:
        return f"default: {scheme_text(recipe.default)}"
    rule = recipe.rules[index]
    return (
        f"rule {index + 1}: {' '.join([*(rule.words() or ['every weight']), '->', scheme_text(rule.scheme)])}"
    )


@attrs.frozen
class Decider:
    """The recipe in a model's own report, as far as it can still be read; and what decided each weight."""

    records: dict[str, dict[str, Any]]
    recipe: Recipe | None

    @classmethod
    def of(cls, report: dict[str, Any]) -> "Decider":
        """From ``read_metadata``; a recipe with Python functions has no text, and is None here."""
        try:
            recipe = Recipe.parse(str(report["recipe"]))
        except (KeyError, MilpassesError):  # none, or "decompress", or a rule with where=
            recipe = None
        return cls({record["name"]: record for record in report.get("weights", [])}, recipe)

    def record(self, name: str) -> dict[str, Any]:
        """What the report says of a weight; empty if it does not know it."""
        return self.records.get(name, {})

    def refusal(self, name: str) -> Refusal | None:
        """Why a weight was not compressed, as a code and its details; None where no code was kept."""
        record = self.record(name)
        code: Any = record.get("code")
        return Refusal(code, **record.get("details", {})) if code else None

    def decision(self, site: Site) -> Decision | None:
        """The decision of the recipe for a weight that the report knows, None if it cannot be told."""
        record = self.record(site.weight.name)
        if self.recipe is None or not record:
            return None
        decision = self.recipe.decide(site.weight)
        stored = record.get("rule")
        if (
            isinstance(stored, int)
            and 0 < stored <= len(self.recipe.rules)
            and stored - 1 != decision.rule_index
        ):
            return attrs.evolve(decision, rule_index=stored - 1, scheme=self.recipe.rules[stored - 1].scheme)
        return decision

    def rule(self, site: Site) -> str:
        """What decided the weight, as text."""
        decision = self.decision(site)
        if decision is not None and self.recipe is not None:
            return rule_text(self.recipe, decision.rule_index)
        stored = self.record(site.weight.name).get("rule")
        return f"rule {stored}" if isinstance(stored, int) else ""


def what_would_change(site: Site, decision: Decision, target: Opset, refusal: Refusal | None) -> str:
    """What to do so that a weight is compressed that was not; empty where nothing would.

    ``refusal`` is why it was not, where that is known. The cases come in the order in which they are checked.
    """
    weight, scheme = site.weight, decision.scheme
    name = f"name={literal(weight.name)}"
    if isinstance(scheme, Keep):
        if decision.rule_index is None:
            return f"a rule for it: {name} -> int8"
        return f"another scheme in rule {decision.rule_index + 1}, or before it a rule {name} -> int8"
    if site.existing is not None:
        return "requantize=True compresses it anew"
    if not weight.consumers and site.blocked:
        return "nothing: the model can do without it"
    if site.blocked or weight.dtype not in FLOATS or weight.rank < 2:
        return ""
    if decision.skip:
        return f"min_elements=0 in a Rule: {name} min_elements=0 -> {scheme_text(scheme)}"
    if refusal is not None and refusal.code == "not-multiplied":
        return (
            f"a rule that names it: {name} -> {scheme_text(scheme)}; or scope=all in the recipe, for all such"
        )
    if compressible(target).missing(scheme):
        return f"minimum_deployment_target=ct.target.{lowest_opset([scheme]).name}"
    return _remedy(refusal, scheme)


def with_half(change: str, site: Site, target: Opset) -> str:
    """``change``, and that a float32 weight which stays dense can be stored as float16."""
    from milpasses.rewrite import Rewriter

    if site.weight.dtype != "float32" or site.existing is not None:
        return change
    half = Recipe.of("half")
    if Rewriter(half, compressible(target)).unwanted(site, half.decide(site.weight)) is not None:
        return change
    return "; or ".join([*([change] if change else []), "rest=half in the recipe stores it as float16"])


def _remedy(refusal: Refusal | None, scheme: Scheme) -> str:
    """What helps where the values or the channels of a weight forbade its scheme; empty: nothing does."""
    if refusal is None:
        return ""
    if refusal.code == "not-divisible":
        multiple = scheme.cluster_dim if isinstance(scheme, Palettize) else 1
        return _divisors(str(refusal.details["what"]), refusal.details, multiple)
    if refusal.code == "vectors-not-divisible":
        return _divisors("cluster_dim", refusal.details, 1)
    if refusal.code == "not-smaller" and isinstance(scheme, Prune):
        return "a higher sparsity: the mask alone takes a bit for each element"
    return _REMEDIES.get(refusal.code, "")


def _divisors(what: str, details: Mapping[str, Any], multiple: int) -> str:
    """The divisors of ``size`` channels next to the one that was ``wanted``."""
    wanted, size = int(details["wanted"]), int(details["size"])
    divisors = [d for d in range(2, size + 1) if size % d == 0 and d % multiple == 0]
    below = max((d for d in divisors if d < wanted), default=None)
    above = min((d for d in divisors if d > wanted), default=None)
    fits = [str(d) for d in (below, above) if d is not None]
    return f"{what} {' or '.join(fits)}, which divide{'s' * (len(fits) == 1)} {size}" if fits else ""
