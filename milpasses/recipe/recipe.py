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

from milpasses.errors import Refusal, no_such_file, shown
from milpasses.recipe.activations import (
    ActivationRule,
    Activations,
    activation_rules,
    optional_activations,
    right_of_activation_rule,
    split_activations,
)
from milpasses.recipe.coremltools_configs import CONFIG_KEYS, config_of, read_config
from milpasses.recipe.errors import RecipeError, at, check_names, wrong
from milpasses.recipe.fields import one_of
from milpasses.recipe.rules import Decision, Rule
from milpasses.recipe.schemes import Half, Keep, Scheme, scheme_text, scheme_words
from milpasses.recipe.text import read_rules
from milpasses.recipe.tuned import tuned, tunes
from milpasses.recipe.weights import MatchableWeight
from milpasses.recipe.yaml_text import read_yaml
from milpasses.report import abridged


def _rules(value: Any) -> tuple[Rule, ...]:
    if not isinstance(value, list | tuple):
        raise RecipeError(f"rules: expected a list of rules, not {shown(value)}")
    rules: list[Rule] = []
    for index, rule in enumerate(cast(Iterable[Any], value), 1):
        with at(f"rule {index}"):
            if isinstance(rule, Mapping):
                rule = Rule.from_fields(cast(Mapping[str, Any], rule))
            if not isinstance(rule, Rule):
                raise RecipeError(f"expected a Rule or a mapping of its fields, not {shown(rule)}")
            rules.append(rule)
    return tuple(rules)


def _rest(value: Any) -> Half | None:
    if value is None:
        return None
    with at("rest"):
        scheme = Scheme.of(value)
        if not isinstance(scheme, Half):
            raise RecipeError(f"expected half, not {scheme}")
    return scheme


@attrs.frozen
class Recipe:
    """What each weight becomes: the scheme of the first rule that matches it, else ``default``.

    ``scope``: ``"weights"`` is for what ops multiply and sum with, or look up (conv, linear, matmul, einsum,
    gather, recurrent ops); grids, masks and scales, which are only added, multiplied or compared element by
    element, stay as they are unless a rule with ``name``, ``op_type``, ``op_name`` or ``param`` gives them a
    scheme. ``"all"``, which coremltools does, is for every constant.

    ``rest``, which can only be ``half``, is for weights that would stay dense though no rule or default keeps
    them: small ones, and those that their scheme does not fit or make smaller.

    ``activations``: 8-bit activations, behind the default in text (``int8+a8``); ``activation_rules``, by the
    op that takes them, leave some float or ask for more (``op_type=linear -> a8=keep``).

    Schemes may be given as text, rules as mappings of their fields. ``str`` is the one-line text and never
    raises. Raises RecipeError.
    """

    default: Scheme = attrs.field(converter=Scheme.of)
    rules: tuple[Rule, ...] = attrs.field(default=(), converter=_rules)
    scope: str = attrs.field(default="weights", kw_only=True, converter=one_of("scope", "weights", "all"))
    rest: Half | None = attrs.field(default=None, converter=_rest, kw_only=True)
    activations: Activations | None = attrs.field(default=None, converter=optional_activations, kw_only=True)
    activation_rules: tuple[ActivationRule, ...] = attrs.field(
        default=(), converter=activation_rules, kw_only=True
    )

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

    @property
    def wants_activations(self) -> bool:
        """Whether some activation may become 8-bit."""
        return self.activations is not None or any(rule.a8 is not None for rule in self.activation_rules)

    @property
    def wants_tuning(self) -> bool:
        """Whether some scheme has ``method="tune"``."""
        return any(map(tunes, [self.default, *(rule.scheme for rule in self.rules)]))

    def tuned(self) -> "Recipe":
        """The recipe with ``method="tune"`` wherever a scheme has its default method."""
        rules = tuple(attrs.evolve(rule, scheme=tuned(rule.scheme)) for rule in self.rules)
        return attrs.evolve(self, default=tuned(self.default), rules=rules)

    def activations_of(self, op_type: str, op_name: str) -> tuple[Activations | None, bool]:
        """What the activations of an op become, and whether a rule says so."""
        index = self.activation_rule_of(op_type, op_name)
        return (self.activations, False) if index is None else (self.activation_rules[index].a8, True)

    def activation_rule_of(self, op_type: str, op_name: str) -> int | None:
        """The place of the rule that decides the activations of an op, None where the default does."""
        found = (i for i, rule in enumerate(self.activation_rules) if rule.matches(op_type, op_name))
        return next(found, None)

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
        if isinstance(value, Activations):
            return cls(Keep(), activations=value)
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
        check_names("recipe", settings, ("scope", "rest"))
        default, a8 = split_activations(default)
        every = [(fields, scheme, right_of_activation_rule(scheme)) for fields, scheme in rules]
        return cls(
            Scheme.parse(default),
            [fields | {"scheme": scheme} for fields, scheme, asked in every if asked is None],
            activations=a8,
            activation_rules=[fields | {"a8": asked} for fields, _, asked in every if asked is not None],
            scope=settings.get("scope", "weights"),
            rest=settings.get("rest"),
        )

    def to_text(self) -> str:
        """Return one line of text, which ``parse`` reads back; RecipeError where a function has none."""
        lines = [self._default_text(scheme_text(self.default)), *self._scope_words()]
        for index, rule in enumerate(self.rules, 1):
            with at(f"rule {index}"):
                lines.append(rule.to_text())
        return "; ".join([*lines, *self._rule_texts(), *self._rest_text()])

    def __repr__(self) -> str:
        return f"<Recipe: {abridged(str(self))}>"

    def __str__(self) -> str:
        default = self._default_text(scheme_words(self.default))
        rules = [*map(str, self.rules), *self._rule_texts()]
        return "; ".join([default, *self._scope_words(), *rules, *self._rest_text()])

    def _default_text(self, scheme: str) -> str:
        if self.activations is None:
            return scheme
        return str(self.activations) if isinstance(self.default, Keep) else f"{scheme}+{self.activations}"

    def _rule_texts(self) -> list[str]:
        return [rule.to_text() for rule in self.activation_rules]

    def _rest_text(self) -> list[str]:
        return [] if self.rest is None else [f"rest={scheme_text(self.rest)}"]

    def _scope_words(self) -> list[str]:
        return [] if self.scope == "weights" else [f"scope={self.scope}"]

    @classmethod
    def from_yaml(cls, source: "str | os.PathLike[str]") -> "Recipe":
        """Read YAML: a path, or the text itself; a ``str`` is a path if it ends in ``.yaml`` or ``.yml``.

        The keys are ``default``, ``rules``, ``scope``, ``rest``, ``activations`` and ``activation_rules``; a
        rule's are the fields of ``Rule`` (``ActivationRule``), a scheme is a short name, a text form or a
        mapping (``{palettize: {nbits: 4}}``). A document with coremltools' own keys (``config_type``,
        ``global_config``, ...) is read as coremltools reads it.
        """
        if isinstance(source, str) and (not _is_yaml(source) or "\n" in source.strip()):
            place, text = "recipe", source
        else:
            place = os.fspath(source).strip()
            try:
                text = Path(place).read_text(encoding="utf-8")
            except FileNotFoundError:
                raise RecipeError(no_such_file(Path(place), "no such recipe file")) from None
            except (OSError, ValueError) as error:  # ValueError: no text, or a name with NUL
                raise RecipeError(f"cannot read the recipe {shown(place)}: {error}") from None
        with at(place):
            document = read_yaml(text)
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
        if self.activations is not None:
            document["activations"] = str(self.activations)
        if self.activation_rules:
            document["activation_rules"] = [
                rule.conditions() | {"a8": str(rule.a8 or "keep")} for rule in self.activation_rules
            ]
        if self.rest is not None:
            document["rest"] = scheme_text(self.rest)
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
        raise RecipeError(f"expected a mapping with default and rules, not {shown(document)}")
    fields = cast(Mapping[str, Any], document)
    if any(key in fields for key in CONFIG_KEYS):
        return Recipe.from_coremltools(config_of(fields))
    names = ("default", "rules", "scope", "rest", "activations", "activation_rules")
    check_names("recipe", fields, names)
    if "default" not in fields:
        raise RecipeError("default: a recipe needs one; 'default: keep' leaves what no rule names as it is")
    default, a8 = fields["default"], None
    if isinstance(default, str):
        default, a8 = split_activations(default)
    if a8 is not None and "activations" in fields:
        raise RecipeError(f"activations: the default says {a8} already")
    with at("default"):
        default = Scheme.of(default)
    rules: Any = fields.get("rules")
    scope, rest = fields.get("scope", "weights"), fields.get("rest")
    return Recipe(
        default,
        () if rules is None else rules,
        scope=scope,
        rest=rest,
        activations=a8 or fields.get("activations"),
        activation_rules=fields.get("activation_rules") or (),
    )
