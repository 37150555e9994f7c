"""Rules that give nothing to any weight of a model, and what may have been meant."""

import warnings
from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from milpasses.errors import UnmatchedRuleWarning, unmatched_text
from milpasses.recipe.errors import RecipeError
from milpasses.recipe.names import CONSTANT_SUFFIX, OP_SUFFIX, matches_exactly, matches_spelling
from milpasses.recipe.recipe import Recipe
from milpasses.recipe.rules import Rule
from milpasses.recipe.weights import MatchableWeight
from milpasses.report import Report

_NEAREST = 3


def unmatched_rules(recipe: Recipe, weights: Sequence[MatchableWeight]) -> list[str]:
    """A sentence for each rule of ``recipe`` that decides none of ``weights``, with the nearest names.

    Of a rule for the name of a weight and one for the same name of an op (coremltools' ``op_name_configs``
    mean either) one is enough.
    """
    if not recipe.rules:
        return []
    decisions = [recipe.decide(weight).rule_index for weight in weights]
    deciding = set(decisions)
    texts: list[str] = []
    answered = {_either_name(recipe.rules[index]) for index in deciding if index is not None}
    for index, rule in enumerate(recipe.rules):
        either = _either_name(rule)
        if index in deciding or (either is not None and either in answered):
            continue
        takers = {
            taker
            for weight, taker in zip(weights, decisions, strict=True)
            if rule.matches(weight) or rule.matches_renamed(weight)
        }
        answered.add(either)
        why = _taken(takers) if takers else _nothing(rule, weights)
        texts.append(f"rule {index + 1} ({', '.join(rule.words()) or 'every weight'}) {why}")
    return texts


def _either_name(rule: Rule) -> tuple[object, object] | None:
    """The name and the scheme of a rule that has no other condition than the name of a weight or an op."""
    conditions = rule.conditions()
    if len(conditions) == 1 and (rule.name is not None or rule.op_name is not None):
        return rule.name or rule.op_name, rule.scheme
    return None


def _taken(takers: Iterable[int | None]) -> str:
    earlier = [f"rule {taker + 1}" for taker in sorted(taker for taker in takers if taker is not None)]
    return f"matches only weights that {' and '.join(earlier)} {'take' if len(earlier) > 1 else 'takes'}"


def _nothing(rule: Rule, weights: Sequence[MatchableWeight]) -> str:
    """That a rule matches nothing, and for each condition that no weight meets, what there is instead."""
    uses = [use for weight in weights for use in weight.consumers]
    names = [weight.name for weight in weights]
    hints: list[str] = []
    if rule.name is not None and not any(
        matches_spelling(rule.name, name, CONSTANT_SUFFIX) for name in names
    ):
        hints += _nearest("names", rule.name, names)
    if rule.op_name is not None and not any(
        matches_spelling(rule.op_name, use.op_name, OP_SUFFIX) for use in uses
    ):
        hints += _nearest("names of ops", rule.op_name, [use.op_name for use in uses])
    types = sorted({use.op_type for use in uses})
    if rule.op_type is not None and not set(rule.op_type) & set(types):
        hints.append(f"weights are used by {', '.join(types) or 'no op'}")
    params = sorted({use.param for use in uses})
    if rule.param is not None and not any(matches_exactly(rule.param, param) for param in params):
        hints.append(f"weights are used as {', '.join(params) or 'nothing'}")
    return "; ".join(["matches no weight", *hints])


def _nearest(what: str, glob: str, names: Sequence[str]) -> list[str]:
    nearest = get_close_matches(glob.strip("*?"), dict.fromkeys(names), _NEAREST, 0.4)
    return [f"nearest {what}: {', '.join(nearest)}"] if nearest else []


def find_unmatched(
    report: Report, recipe: Recipe, weights: Sequence[MatchableWeight], strict: bool = False
) -> None:
    """Put ``unmatched_rules`` into ``report``, and warn of them; RecipeError instead where ``strict``."""
    report.unmatched.clear()
    _say(report, unmatched_rules(recipe, weights), strict)


def find_unmatched_activations(
    report: Report, recipe: Recipe, ops: Iterable[tuple[str, str]], strict: bool = False
) -> None:
    """As ``find_unmatched``, of the rules for activations; ``ops``: type and name of those that have some."""
    known = list(ops)
    deciding = {recipe.activation_rule_of(*op) for op in known}
    types = ", ".join(sorted({op_type for op_type, _ in known})) or "none"
    texts = [
        f"activation rule {index + 1} ({rule.to_text()}) decides no op; 8-bit can be those of {types}"
        for index, rule in enumerate(recipe.activation_rules)
        if index not in deciding
    ]
    _say(report, texts, strict)


def _say(report: Report, texts: Sequence[str], strict: bool) -> None:
    report.unmatched += [text for text in texts if text not in report.unmatched]
    if texts and strict:
        raise RecipeError(unmatched_text(list(texts)))
    if texts:
        warnings.warn(unmatched_text(list(texts)), UnmatchedRuleWarning, stacklevel=5)
