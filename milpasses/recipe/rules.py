"""Rules: which weights get a scheme, and what a recipe decides for one weight."""

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from milpasses.errors import Refusal
from milpasses.recipe.errors import RecipeError, check_names, wrong
from milpasses.recipe.fields import content, glob, op_types, optional, whole
from milpasses.recipe.names import CONSTANT_SUFFIX, OP_SUFFIX, matches_exactly, matches_spelling
from milpasses.recipe.schemes import Scheme, scheme_text, scheme_words
from milpasses.recipe.text import condition_text
from milpasses.recipe.weights import MatchableUse, MatchableWeight


def _count(field: str) -> Any:
    converter: Any = optional(whole(field, 0))
    return attrs.field(default=None, kw_only=True, converter=converter)


@attrs.frozen
class Rule:
    """Which weights get ``scheme``: those for which every condition given holds.

    ``op_type`` (one, or a tuple), ``op_name`` and ``param`` hold if one and the same op that uses the
    weight has them all. ``name``, ``op_name`` and ``param`` are case-sensitive globs (``*``, ``?``,
    ``[...]``); names match as PyTorch or MIL gave them and as a saved package has them: ``layers.1.weight``
    and ``layers_1_weight_to_fp16`` are one.
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
    content: str | None = attrs.field(default=None, kw_only=True, converter=content)
    # Any: what is passed is a milpasses.Weight, and functions are annotated with that.
    where: Callable[[Any], bool] | None = attrs.field(default=None, kw_only=True)

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

    def matches(self, weight: MatchableWeight) -> bool:
        """Whether every condition holds for the weight."""
        return (
            self._matches_name(weight.name)
            and self._holds(weight)
            and (self.name is not None or self._has_content(weight))
        )

    def _matches_name(self, name: str) -> bool:
        if self.content is not None:  # what tells a weight that has another name
            return matches_exactly(self.name, name)
        return matches_spelling(self.name, name, CONSTANT_SUFFIX)

    def matches_renamed(self, weight: MatchableWeight) -> bool:
        """Whether every condition but the name holds, and the content is the weight's."""
        return self.content is not None and self._holds(weight) and self._has_content(weight)

    def _has_content(self, weight: MatchableWeight) -> bool:
        return self.content is None or self.content == weight.content

    def _holds(self, weight: MatchableWeight) -> bool:
        return (
            self._matches_op(weight)
            and (self.content is None or self.content.startswith(weight.content_shape))
            and _within(weight.size, self.min_elements, self.max_elements)
            and _within(weight.rank, self.min_rank if self.rank is None else self.rank, self.rank)
            and _within(_channels(weight, 0), self.min_channels)
            and _within(_channels(weight, 1), self.min_input_channels)
            and (self.where is None or bool(self.where(weight)))
        )

    def _matches_op(self, weight: MatchableWeight) -> bool:
        if self.op_type is None and self.op_name is None and self.param is None:
            return True

        def holds(use: MatchableUse) -> bool:
            return (
                (self.op_type is None or use.op_type in self.op_type)
                and matches_spelling(self.op_name, use.op_name, OP_SUFFIX)
                and matches_exactly(self.param, use.param)
            )

        return any(map(holds, weight.consumers))

    @property
    def names_weights(self) -> bool:
        """Whether the rule says by name, or by the ops, which weights it is for."""
        conditions = (self.op_type, self.name, self.op_name, self.param, self.content)
        return any(condition is not None for condition in conditions)

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
        return " ".join([*self.words(), "->", scheme_text(self.scheme)])

    def __str__(self) -> str:
        return " ".join([*self.words(), "->", scheme_words(self.scheme)])


@attrs.frozen
class Decision:
    """What a recipe says about one weight.

    ``rule_index`` is the place in ``recipe.rules``, None for the default. ``threshold`` is the number of
    elements that the weight has to exceed, ``skip`` the refusal where it does not. ``reason`` says which rule
    decided, counting from 1.
    """

    scheme: Scheme
    rule_index: int | None
    threshold: int
    reason: str
    skip: Refusal | None = None


def _within(value: int, least: int | None, most: int | None = None) -> bool:
    return (least is None or value >= least) and (most is None or value <= most)


def _channels(weight: MatchableWeight, which: int) -> int:
    """Length of the weight's output (0) or input (1) channel axis; 1 where it has no such axis."""
    axis = weight.channel_axes[which]
    return weight.shape[axis] if 0 <= axis < weight.rank else 1
