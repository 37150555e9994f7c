"""Recipes: a default scheme, and rules that say which weights get another one.

One line of text, YAML, coremltools' ``OptimizationConfig`` and its YAML all read into the same objects::

    default: pal4-g16                   pal4-g16; op_type=conv name=stem* min_elements=0 -> int8
    rules:
      - op_type: conv
        name: "stem*"
        min_elements: 0
        scheme: int8
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import attrs

from milpasses.errors import Refusal
from milpasses.recipe.coremltools_configs import CONFIG_KEYS, config_of, read_config
from milpasses.recipe.errors import RecipeError, at, check_names, wrong
from milpasses.recipe.fields import one_of
from milpasses.recipe.rules import Decision, Rule
from milpasses.recipe.schemes import Keep, Scheme, scheme_text, scheme_words
from milpasses.recipe.text import read_rules
from milpasses.recipe.weights import MatchableWeight


def _rules(value: Any) -> tuple[Rule, ...]:
    if not isinstance(value, list | tuple):
        raise RecipeError(f"rules: expected a list of rules, not {value!r}")
    rules: list[Rule] = []
    for index, rule in enumerate(cast(Iterable[Any], value), 1):
        with at(f"rule {index}"):
            if isinstance(rule, Mapping):
                rule = Rule.from_fields(cast(Mapping[str, Any], rule))
            if not isinstance(rule, Rule):
                raise RecipeError(f"expected a Rule or a mapping of its fields, not {rule!r}")
            rules.append(rule)
    return tuple(rules)


@attrs.frozen
class Recipe:
    """What each weight becomes: the scheme of the first rule that matches it, else ``default``.

    ``scope``: ``"weights"`` is for what ops multiply and sum with, or look up (conv, linear, matmul, einsum,
    gather, recurrent ops); grids, masks and scales, which are only added, multiplied or compared element by
    element, stay as they are unless a rule with ``name``, ``op_type``, ``op_name`` or ``param`` gives them a
    scheme. ``"all"``, which coremltools does, is for every constant.

    Schemes may be given as text, rules as mappings of their fields. ``str`` is the one-line text and never
    raises. Raises RecipeError.
    """

    default: Scheme = attrs.field(converter=Scheme.of)
    rules: tuple[Rule, ...] = attrs.field(default=(), converter=_rules)
    scope: str = attrs.field(default="weights", kw_only=True, converter=one_of("scope", "weights", "all"))

    def decide(self, weight: MatchableWeight) -> Decision:
        """Choose the scheme for a weight, and whether it is too small for it."""
        matching = (index for index, rule in enumerate(self.rules) if rule.matches(weight))
        index = next(matching, None)
        if index is None:
            renamed = (index for index, rule in enumerate(self.rules) if rule.matches_renamed(weight))
            index = next(renamed, None)
        if index is None:
            return _decision(self.default, None, "default", None, weight.size)
        rule = self.rules[index]
        reason = f"rule {index + 1}: {', '.join(rule.words()) or 'every weight'}"
        return _decision(rule.scheme, index, reason, rule.min_elements, weight.size)

    def takes_every_constant(self, decision: Decision) -> bool:
        """Whether what was decided holds for a constant that no op multiplies and sums with, too."""
        index = decision.rule_index
        return self.scope == "all" or (index is not None and self.rules[index].names_weights)

    @classmethod
    def of(cls, value: Any) -> "Recipe":
        """Read a recipe from whatever stands for one.

        That is a recipe, a scheme, a short name, a text form, YAML text of several lines, a path to YAML (a
        ``str`` that ends in ``.yaml`` or ``.yml``, or any ``PathLike``), a mapping as YAML has it, or
        coremltools' ``OptimizationConfig``.
        """
        if isinstance(value, Recipe):
            return value
        if isinstance(value, Scheme):
            return cls(value)
        if isinstance(value, str):
            return cls.from_yaml(value) if _is_yaml(value) else cls.parse(value)
        if isinstance(value, os.PathLike):
            return cls.from_yaml(cast("os.PathLike[str]", value))
        if isinstance(value, Mapping):
            return _from_mapping(cast(Mapping[str, Any], value))
        if type(value).__name__ == "OptimizationConfig":
            return cls.from_coremltools(value)
        expected = "a Recipe, a scheme, a short name or text form, YAML or its path, an OptimizationConfig"
        raise wrong("recipe", expected, value)

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """Read one line of text: ``default; scope=all; condition=value ... -> scheme; ...``."""
        default, rules, settings = read_rules(text)
        check_names("recipe", settings, ("scope",))
        return cls(
            Scheme.parse(default),
            [fields | {"scheme": scheme} for fields, scheme in rules],
            scope=settings.get("scope", "weights"),
        )

    def to_text(self) -> str:
        """Return one line of text, which ``parse`` reads back; RecipeError where a function has none."""
        lines = [scheme_text(self.default), *self._scope_words()]
        for index, rule in enumerate(self.rules, 1):
            with at(f"rule {index}"):
                lines.append(rule.to_text())
        return "; ".join(lines)

    def __str__(self) -> str:
        return "; ".join([scheme_words(self.default), *self._scope_words(), *map(str, self.rules)])

    def _scope_words(self) -> list[str]:
        return [] if self.scope == "weights" else [f"scope={self.scope}"]

    @classmethod
    def from_yaml(cls, source: "str | os.PathLike[str]") -> "Recipe":
        """Read YAML: a path, or the text itself; a ``str`` is a path if it ends in ``.yaml`` or ``.yml``.

        The keys are ``default``, ``rules`` and ``scope``, a rule's keys are the fields of ``Rule``, a scheme
        is a short name, a text form or a mapping (``{palettize: {nbits: 4}}``). A document with coremltools'
        own keys (``config_type``, ``global_config``, ...) is read as coremltools reads it.
        """
        import yaml

        if isinstance(source, str) and (not _is_yaml(source) or "\n" in source.strip()):
            place, text = "recipe", source
        else:
            place = os.fspath(source).strip()
            try:
                text = Path(place).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise RecipeError(f"cannot read the recipe {place}: {error}") from None
        with at(place):
            try:
                document = yaml.safe_load(text)
            except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
                raise RecipeError(f'not YAML (put patterns in quotes: "*.weight"): {error}') from None
            if isinstance(document, str):
                return cls.parse(document)
            return _from_mapping(document)

    def to_yaml(self) -> str:
        """Return YAML that ``from_yaml`` reads back; RecipeError where a function has no text form."""
        import yaml

        document: dict[str, Any] = {"default": scheme_text(self.default)}
        if self.scope != "weights":
            document["scope"] = self.scope
        if self.rules:
            self.to_text()  # refuses what has no text
            document["rules"] = [
                rule.conditions() | {"scheme": scheme_text(rule.scheme)} for rule in self.rules
            ]
        return yaml.safe_dump(document, sort_keys=False, width=10_000)

    @classmethod
    def from_coremltools(cls, config: Any) -> "Recipe":
        """Read an ``OptimizationConfig``, with its order: the weight's name, the op's name, its type, global.

        None is ``Keep``, as there; each op config becomes a scheme. Where ops that share a
        weight disagree coremltools raises, here that order decides. The ``op_selector`` of the deprecated
        ``compression_utils`` becomes the ``where`` of a rule that keeps what it does not select: it is shown
        the const op's ``name``, ``op_type``, ``val`` and ``outputs``, and the names and types of its users.
        """
        return cls(*read_config(config))


def _decision(
    scheme: Scheme, rule_index: int | None, reason: str, min_elements: int | None, size: int
) -> Decision:
    """The decision for a weight of ``size`` elements; a rule's ``min_elements`` replaces the threshold."""
    which, threshold = "weight_threshold", scheme.weight_threshold
    if min_elements is not None:
        which, threshold = "min_elements", max(min_elements - 1, 0)
    skip = None
    if size <= threshold and not isinstance(scheme, Keep):
        skip = Refusal("small", size=size, which=which, limit=threshold)
    return Decision(scheme, rule_index, threshold, reason, skip)


def _is_yaml(text: str) -> bool:
    """Whether a text is YAML or the path of it, rather than one line of a recipe."""
    return "\n" in text.strip() or text.strip().lower().endswith((".yaml", ".yml"))


def _from_mapping(document: Any) -> Recipe:
    if not isinstance(document, Mapping):
        raise RecipeError(f"expected a mapping with default and rules, not {document!r}")
    fields = cast(Mapping[str, Any], document)
    if any(key in fields for key in CONFIG_KEYS):
        return Recipe.from_coremltools(config_of(fields))
    check_names("recipe", fields, ("default", "rules", "scope"))
    if "default" not in fields:
        raise RecipeError("default: a recipe needs one; 'default: keep' leaves what no rule names as it is")
    with at("default"):
        default = Scheme.of(fields["default"])
    rules: Any = fields.get("rules")
    return Recipe(default, () if rules is None else rules, scope=fields.get("scope", "weights"))
