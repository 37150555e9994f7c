"""Recipes: a default scheme, and rules that say which weights get another one.

One line of text, YAML, coremltools' ``OptimizationConfig`` and its YAML all read into the same objects::

    default: pal4-g16                   pal4-g16; op_type=conv name=stem* min_elements=0 -> int8
    rules:
      - op_type: conv
        name: "stem*"
        min_elements: 0
        scheme: int8
"""

import copy
import os
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import translate
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import attrs

from milpasses.program.weights import Consumer, Weight
from milpasses.recipe.op_selector import read_selector
from milpasses.recipe.schemes import OP_CONFIGS, Keep, RecipeError, Scheme, short_name
from milpasses.recipe.text import (
    at,
    check_names,
    comma,
    condition_text,
    glob,
    op_types,
    optional,
    read_rules,
    whole,
    wrong,
)

_CONFIG_KEYS = ("config_type", "global_config", "op_type_configs", "op_name_configs")


def _count(field: str) -> Any:
    converter: Any = optional(whole(field, 0))
    return attrs.field(default=None, kw_only=True, converter=converter)


def _content(value: object) -> str | None:
    if value is None or (isinstance(value, str) and re.fullmatch(r"\d+(x\d+)*:[0-9a-f]{16}", value)):
        return value
    raise wrong("content", "a shape and 16 hexadecimal digits, such as 64x32x3x3:0123456789abcdef", value)


@attrs.frozen
class Rule:
    """Which weights get ``scheme``: those for which every condition given holds.

    ``op_type`` (one, or a tuple), ``op_name`` and ``param`` hold if one and the same op that uses the weight
    has them all. ``name``, ``op_name`` and ``param`` are case-sensitive globs (``*``, ``?``, ``[...]``).
    Bounds are inclusive. ``min_elements`` also takes the place of the scheme's ``weight_threshold``: so a
    rule compresses small weights. ``min_channels`` counts output channels, ``min_input_channels`` input
    channels (of one group of a convolution: what the neural network format calls kernel channels), both along
    ``Weight.channel_axes``. ``content`` is ``Weight.content``: with a ``name``, the name decides, and the
    shape must be that of the content; a weight that no rule matches gets the rule that has its content,
    whatever its name. ``where(weight) -> bool`` is asked last; it has no text form.
    """

    scheme: Scheme = attrs.field(converter=Scheme.of)
    op_type: tuple[str, ...] | None = attrs.field(default=None, kw_only=True, converter=op_types)
    name: str | None = attrs.field(default=None, kw_only=True, converter=glob("name"))
    op_name: str | None = attrs.field(default=None, kw_only=True, converter=glob("op_name"))
    param: str | None = attrs.field(default=None, kw_only=True, converter=glob("param"))
    min_elements: int | None = _count("min_elements")
    max_elements: int | None = _count("max_elements")
    min_rank: int | None = _count("min_rank")
    rank: int | None = _count("rank")
    min_channels: int | None = _count("min_channels")
    min_input_channels: int | None = _count("min_input_channels")
    content: str | None = attrs.field(default=None, kw_only=True, converter=_content)
    where: Callable[[Weight], bool] | None = attrs.field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.where is not None and not callable(self.where):
            raise wrong("where", "a Python function of a Weight (it has no text form)", self.where)
        for low, high in (("min_elements", "max_elements"), ("min_rank", "rank")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise RecipeError(f"{low}: {least} is more than {high} {most}: no weight has that")

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "Rule":
        """Make a rule from named fields, typed or as text; an unknown name lists what is accepted."""
        check_names("rule", fields, (field.name for field in attrs.fields(cls)))
        if "scheme" not in fields:
            raise RecipeError("scheme: a rule needs one, none given")
        return cls(**fields)

    def matches(self, weight: Weight) -> bool:
        """Whether every condition holds for the weight."""
        return (
            _fits(self.name, weight.name)
            and self._holds(weight)
            and (self.name is not None or self._is(weight))
        )

    def matches_renamed(self, weight: Weight) -> bool:
        """Whether every condition but the name holds, and the content is the weight's."""
        return self.content is not None and self._holds(weight) and self._is(weight)

    def _is(self, weight: Weight) -> bool:
        return self.content is None or self.content == weight.content

    def _holds(self, weight: Weight) -> bool:
        return (
            self._matches_op(weight)
            and (self.content is None or self.content.startswith(weight.content_shape))
            and _within(weight.size, self.min_elements, self.max_elements)
            and _within(weight.rank, self.min_rank if self.rank is None else self.rank, self.rank)
            and _within(_channels(weight, 0), self.min_channels)
            and _within(_channels(weight, 1), self.min_input_channels)
            and (self.where is None or bool(self.where(weight)))
        )

    def _matches_op(self, weight: Weight) -> bool:
        if self.op_type is None and self.op_name is None and self.param is None:
            return True

        def fits(use: Consumer) -> bool:
            of_type = self.op_type is None or use.op_type in self.op_type
            return of_type and _fits(self.op_name, use.op_name) and _fits(self.param, use.param)

        return any(map(fits, weight.consumers))

    def conditions(self) -> dict[str, object]:
        """The conditions given, in the order of the fields."""
        values = {field.name: getattr(self, field.name) for field in attrs.fields(type(self))[1:]}
        if self.op_type:
            values["op_type"] = ",".join(self.op_type)
        return {name: value for name, value in values.items() if value is not None}

    def words(self) -> list[str]:
        """The conditions as text: ``op_type=conv``; a function shows its name."""
        return [f"{name}={condition_text(value)}" for name, value in self.conditions().items()]

    def to_text(self) -> str:
        """Return the text form; RecipeError where a function has none."""
        if self.where is not None:
            raise RecipeError("where is a Python function: it has no text form")
        return " ".join([*self.words(), "->", _scheme_text(self.scheme)])

    def __str__(self) -> str:
        return " ".join([*self.words(), "->", short_name(self.scheme) or str(self.scheme)])


@cache
def _pattern(glob: str) -> re.Pattern[str]:
    # fnmatch's own cache is too small for a recipe with a rule for each layer of a large model.
    return re.compile(translate(glob))


def _fits(glob: str | None, name: str) -> bool:
    return glob is None or _pattern(glob).match(name) is not None


def _within(value: int, least: int | None, most: int | None = None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _channels(weight: Weight, which: int) -> int:
    """Length of the weight's output (0) or input (1) channel axis; 1 where it has no such axis."""
    axis = weight.channel_axes[which]
    return weight.shape[axis] if 0 <= axis < weight.rank else 1


def _scheme_text(scheme: Scheme) -> str:
    return short_name(scheme) or scheme.to_text()


@attrs.frozen
class Decision:
    """What a recipe says about one weight.

    ``rule_index`` is the place in ``recipe.rules``, None for the default. ``threshold`` is the number of
    elements that the weight has to exceed, ``skip`` the reason where it does not. ``reason`` says which rule
    decided, counting from 1.
    """

    scheme: Scheme
    rule_index: int | None
    threshold: int
    reason: str
    skip: str | None = None


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

    Schemes may be given as text, rules as mappings of their fields. ``str`` is the one-line text and never
    raises. Raises RecipeError.
    """

    default: Scheme = attrs.field(converter=Scheme.of)
    rules: tuple[Rule, ...] = attrs.field(default=(), converter=_rules)

    def decide(self, weight: Weight) -> Decision:
        """Choose the scheme for a weight, and whether it is too small for it."""
        matching = (index for index, rule in enumerate(self.rules) if rule.matches(weight))
        index = next(matching, None)
        if index is None:
            renamed = (index for index, rule in enumerate(self.rules) if rule.matches_renamed(weight))
            index = next(renamed, None)
        if index is None:
            scheme, reason = self.default, "default"
            threshold = scheme.weight_threshold
        else:
            rule = self.rules[index]
            scheme = rule.scheme
            reason = f"rule {index + 1}: {', '.join(rule.words()) or 'every weight'}"
            least = rule.min_elements
            threshold = scheme.weight_threshold if least is None else max(least - 1, 0)
        small = weight.size <= threshold and not isinstance(scheme, Keep)
        skip = f"{weight.size:,} elements <= weight_threshold {threshold:,}" if small else None
        return Decision(scheme, index, threshold, reason, skip)

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
    def fit(cls, model: Any, budget: Any = None, **options: Any) -> "Recipe":
        """Choose a scheme for each weight of ``model`` within a budget; see ``milpasses.budget.fit``."""
        from milpasses.budget import fit

        return fit(model, budget, **options).recipe

    @classmethod
    def parse(cls, text: str) -> "Recipe":
        """Read one line of text: ``default; condition=value ... -> scheme; ...``."""
        default, rules = read_rules(text)
        return cls(Scheme.parse(default), [fields | {"scheme": scheme} for fields, scheme in rules])

    def to_text(self) -> str:
        """Return one line of text, which ``parse`` reads back; RecipeError where a function has none."""
        lines = [_scheme_text(self.default)]
        for index, rule in enumerate(self.rules, 1):
            with at(f"rule {index}"):
                lines.append(rule.to_text())
        return "; ".join(lines)

    def __str__(self) -> str:
        return "; ".join([short_name(self.default) or str(self.default), *map(str, self.rules)])

    @classmethod
    def from_yaml(cls, source: "str | os.PathLike[str]") -> "Recipe":
        """Read YAML: a path, or the text itself; a ``str`` is a path if it ends in ``.yaml`` or ``.yml``.

        The keys are ``default`` and ``rules``, a rule's keys are the fields of ``Rule``, a scheme is a short
        name, a text form or a mapping (``{palettize: {nbits: 4}}``). A document with coremltools' own keys
        (``config_type``, ``global_config``, ...) is read as coremltools reads it.
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

        document: dict[str, Any] = {"default": _scheme_text(self.default)}
        if self.rules:
            self.to_text()  # refuses what has no text
            document["rules"] = [
                rule.conditions() | {"scheme": _scheme_text(rule.scheme)} for rule in self.rules
            ]
        return yaml.safe_dump(document, sort_keys=False, width=10_000)

    @classmethod
    def from_coremltools(cls, config: Any) -> "Recipe":
        """Read an ``OptimizationConfig``, with its order: the weight's name, the op's name, its type, global.

        None is ``Keep``, as there; each config is read by ``Scheme.from_coremltools``. Where ops that share a
        weight disagree coremltools raises, here that order decides. The ``op_selector`` of the deprecated
        ``compression_utils`` becomes the ``where`` of a rule that keeps what it does not select: it is shown
        the const op's ``name``, ``op_type``, ``val`` and ``outputs``, and the names and types of its users.
        """
        if any(not hasattr(config, key) for key in _CONFIG_KEYS[1:]):
            raise RecipeError(f"expected a coremltools OptimizationConfig, not {config!r}")
        selector, unset = read_selector(config)
        rules = [] if selector is None else [Rule(Keep(), where=selector)]

        def add(key: str, field: str, spell: Callable[[str], str] = str) -> None:
            for name, op_config in getattr(config, key).items():
                with at(f"{key}[{name!r}]"):
                    fields: dict[str, Any] = {field: spell(name)}
                    rules.append(Rule(Scheme.from_coremltools(op_config, unset), **fields))

        add("op_name_configs", "name", literal)
        add("op_name_configs", "op_name", literal)
        add("op_type_configs", "op_type")
        with at("global_config"):
            return cls(Scheme.from_coremltools(config.global_config, unset), rules)


def _is_yaml(text: str) -> bool:
    """Whether a text is YAML or the path of it, rather than one line of a recipe."""
    return "\n" in text.strip() or text.strip().lower().endswith((".yaml", ".yml"))


def _from_mapping(document: Any) -> Recipe:
    if not isinstance(document, Mapping):
        raise RecipeError(f"expected a mapping with default and rules, not {document!r}")
    fields = cast(Mapping[str, Any], document)
    if any(key in fields for key in _CONFIG_KEYS):
        return Recipe.from_coremltools(_optimization_config(fields))
    check_names("recipe", fields, ("default", "rules"))
    if "default" not in fields:
        raise RecipeError("default: a recipe needs one; 'default: keep' leaves what no rule names as it is")
    with at("default"):
        default = Scheme.of(fields["default"])
    rules: Any = fields.get("rules")
    return Recipe(default, () if rules is None else rules)


def _optimization_config(document: Mapping[str, Any]) -> Any:
    check_names("recipe", document, _CONFIG_KEYS)
    coreml: Any = import_module("coremltools.optimize.coreml")
    try:
        return coreml.OptimizationConfig.from_dict(copy.deepcopy(dict(document)))  # from_dict removes keys
    except AttributeError as error:  # from_dict looks the type up by its name
        check_names("config_type", [error.name], OP_CONFIGS)
        raise
    except Exception as error:  # whatever coremltools and cattrs raise for what cannot be
        cause = getattr(error, "exceptions", [error])[0]
        fields = getattr(cause, "cl", None)
        accepted = f"; accepted: {comma(attrs.fields_dict(fields))}" if fields else ""
        raise RecipeError(f"coremltools: {cause}{accepted}") from error


def literal(name: str) -> str:
    """The glob that matches this name alone."""
    return re.sub(r"([*?\[])", r"[\1]", name)
