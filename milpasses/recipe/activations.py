"""What activations become: ``a8``, alone or behind a recipe's default, and rules by the ops around them."""

import re
from collections.abc import Mapping
from typing import Any, cast

import attrs

from milpasses.errors import shown
from milpasses.recipe.errors import RecipeError, check_names, wrong
from milpasses.recipe.fields import dtype_of, glob, one_of, op_types
from milpasses.recipe.names import OP_SUFFIX, matches_spelling
from milpasses.recipe.text import condition_text

_TEXT = re.compile(r"a8(-uint8)?(-sym|-asym)?")
_MODES = {None: "auto", "-sym": "linear_symmetric", "-asym": "linear"}
_BEHIND = re.compile(r"(?:^|\s*\+\s*)(a8[\w-]*)\s*$")


@attrs.frozen
class Activations:
    """8-bit activations: ``quantize`` and ``dequantize`` pairs around the ops that Core ML fuses them into.

    ``mode``: ``"linear_symmetric"`` has no zero point, ``"linear"`` has one, and ``"auto"`` takes for each
    tensor the one with the clearly finer step: a zero point behind a relu, none where both signs occur alike.

    Text: ``a8``, with ``-uint8`` for unsigned codes, and ``-sym`` or ``-asym`` for the two modes. Raises
    RecipeError.
    """

    dtype: str = attrs.field(default="int8", converter=dtype_of("dtype", "int8", "uint8"))
    mode: str = attrs.field(default="auto", converter=one_of("mode", "auto", "linear_symmetric", "linear"))

    @classmethod
    def of(cls, value: Any) -> "Activations | None":
        """Read it from its text, or from a mapping of its fields; None, ``keep`` and ``float`` are None."""
        if value is None or isinstance(value, Activations):
            return value
        if isinstance(value, Mapping):
            fields = cast(Mapping[str, Any], value)
            check_names("activations", fields, ("dtype", "mode"))
            return cls(**fields)
        if value in ("keep", "float"):
            return None
        found = _TEXT.fullmatch(value.strip().lower()) if isinstance(value, str) else None
        if found is None:
            raise wrong(
                "activations", "a8, a8-sym, a8-asym, a8-uint8 (with -sym or -asym too) or keep", value
            )
        return cls("uint8" if found[1] else "int8", _MODES[found[2]])

    def __str__(self) -> str:
        unsigned = "-uint8" if self.dtype == "uint8" else ""
        suffix = next(suffix for suffix, mode in _MODES.items() if mode == self.mode)
        return f"a8{unsigned}{suffix or ''}"


def optional_activations(value: Any) -> Activations | None:
    """As ``Activations.of``; a converter."""
    return Activations.of(value)


@attrs.frozen
class ActivationRule:
    """The ops whose input and output activations become ``a8``; None leaves them float.

    ``op_type`` (one, or a tuple) and the glob ``op_name`` must both hold; at least one is needed.
    """

    a8: Activations | None = attrs.field(default=None, converter=optional_activations)
    op_type: tuple[str, ...] | None = attrs.field(default=None, kw_only=True, converter=op_types)
    op_name: str | None = attrs.field(default=None, kw_only=True, converter=glob("op_name"))

    def __attrs_post_init__(self) -> None:
        if self.op_type is None and self.op_name is None:
            raise RecipeError("a rule for activations needs op_type or op_name")

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any]) -> "ActivationRule":
        """Make a rule from named fields, as YAML and text have them."""
        check_names("rule for activations", fields, ("op_type", "op_name", "a8"))
        return cls(**fields)

    def matches(self, op_type: str, op_name: str) -> bool:
        """Whether the rule is for this op."""
        return (self.op_type is None or op_type in self.op_type) and matches_spelling(
            self.op_name, op_name, OP_SUFFIX
        )

    def conditions(self) -> dict[str, str]:
        """The conditions given."""
        found = {"op_type": ",".join(self.op_type or ()), "op_name": self.op_name}
        return {name: value for name, value in found.items() if value}

    def to_text(self) -> str:
        """The text form, which a recipe reads back."""
        words = [f"{name}={condition_text(value)}" for name, value in self.conditions().items()]
        return " ".join([*words, "->", f"a8={self.a8 or 'keep'}"])


def activation_rules(value: Any) -> tuple[ActivationRule, ...]:
    """A list of rules, or of mappings of their fields; a converter."""
    if not isinstance(value, list | tuple):
        raise RecipeError(f"activation_rules: expected a list of rules, not {shown(value)}")
    return tuple(
        rule if isinstance(rule, ActivationRule) else ActivationRule.from_fields(_mapping(rule))
        for rule in cast(list[Any], value)
    )


def _mapping(rule: Any) -> Mapping[str, Any]:
    if not isinstance(rule, Mapping):
        raise RecipeError(f"activation_rules: expected a mapping with op_type or op_name, not {shown(rule)}")
    return cast(Mapping[str, Any], rule)


def split_activations(text: str) -> tuple[str, str | None]:
    """``int8 + a8`` as the text of the scheme and that of the activations; ``a8`` alone keeps weights."""
    found = _BEHIND.search(text)
    return (text, None) if found is None else (text[: found.start()] or "keep", found[1])


def right_of_activation_rule(text: str) -> str | None:
    """What a rule gives to activations (``a8``, ``a8=keep``), None where it is a rule for weights."""
    found = re.fullmatch(r"a8\s*=\s*(keep|float|a8[\w-]*)|(a8[\w-]*)", text)
    return None if found is None else found[1] or found[2]
