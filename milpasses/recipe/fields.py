"""Converters of a scheme's or a rule's fields: each takes a value, typed or as text, and returns it typed.

They raise ``RecipeError``, which says what the field takes.
"""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from numbers import Integral, Real
from typing import Any, TypeVar, cast

from milpasses.recipe.errors import comma, wrong

T = TypeVar("T")


def optional(convert: Callable[[object], T]) -> Callable[[object], T | None]:
    """``convert``, where None (or ``none``) is a value too."""

    def read(value: object) -> T | None:
        absent = value is None or (isinstance(value, str) and value.strip().lower() == "none")
        return None if absent else convert(value)

    return read


def one_of(name: str, *accepted: str) -> Callable[[Any], Any]:
    """One of a few words, in any case; an enum's member counts as its name.

    The field's annotation says which words: a type checker would widen them to ``str`` here.
    """

    def read(value: object) -> str:
        word = value.name if isinstance(value, Enum) else value
        if not isinstance(word, str) or word.strip().lower() not in accepted:
            raise wrong(name, f"one of {comma(accepted)}", value)
        return word.strip().lower()

    return read


def dtype_of(name: str, *accepted: str) -> Callable[[Any], Any]:
    """An integer type by its name, as a NumPy type or as a type of MIL."""
    word = one_of(name, *accepted)

    def read(value: Any) -> str:
        if hasattr(value, "get_bitwidth") and hasattr(value, "is_unsigned"):
            return word(f"{'u' if value.is_unsigned() else ''}int{value.get_bitwidth()}")
        return word(value.__name__ if isinstance(value, type) else getattr(value, "name", value))

    return read


def whole(name: str, least: int | None = None) -> Callable[[object], int]:
    """A whole number; True and False are none."""
    expected = "a whole number" if least is None else f"a whole number of at least {least}"
    floor = -math.inf if least is None else least

    def read(value: object) -> int:
        typed = value
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d{1,18}\s*", value):
            typed = int(value)
        if isinstance(typed, bool) or not isinstance(typed, Integral) or int(typed) < floor:
            raise wrong(name, expected, value)
        return int(typed)

    return read


def number(name: str, most: float | None = None) -> Callable[[object], float]:
    """A finite number from 0 to ``most``."""
    expected = "a number of at least 0" if most is None else f"a number from 0 to {most:g}"

    def read(value: object) -> float:
        typed = value
        if isinstance(value, str):
            with suppress(ValueError):
                typed = float(value)
        if isinstance(typed, bool) or not isinstance(typed, Real):
            raise wrong(name, expected, value)
        result = float(typed) + 0.0  # -0.0 has another text than 0.0
        if not 0 <= result < math.inf or (most is not None and result > most):
            raise wrong(name, expected, value)
        return result

    return read


def flag(name: str) -> Callable[[object], bool]:
    """True or false."""

    def read(value: object) -> bool:
        if isinstance(value, bool):
            return value
        return one_of(name, "true", "false")(value) == "true"

    return read


def block_sizes(name: str) -> Callable[[object], int | tuple[int, ...]]:
    """One size, or a size for each axis of a weight (two axes at least): ``32``, ``(1, 32)``."""
    expected = "a whole number, or a tuple of two or more, of at least 0, such as 32 or (1, 32)"

    def read(value: object) -> int | tuple[int, ...]:
        sizes = _members(value)
        try:
            if sizes is None:
                return whole(name, 0)(value)
            first, second, *others = (whole(name, 0)(size) for size in sizes)
        except ValueError:  # fewer than two, or not whole
            raise wrong(name, expected, value) from None
        return first, second, *others

    return read


def ratio(name: str) -> Callable[[object], tuple[int, int]]:
    """A pair (n, m), 0 <= n <= m and 1 <= m: ``(2, 4)`` or ``"2:4"``."""
    expected = 'a pair (n, m) with n <= m, such as (2, 4) or "2:4" (quoted: to YAML a bare 2:4 is one number)'

    def read(value: object) -> tuple[int, int]:
        pair = value.split(":") if isinstance(value, str) and ":" in value else _members(value)
        try:
            n, m = (whole(name, 0)(part) for part in pair or ())
        except ValueError:
            raise wrong(name, expected, value) from None
        if n > m or m < 1:
            raise wrong(name, expected, value)
        return n, m

    return read


def op_types(value: object) -> tuple[str, ...] | None:
    """Types of ops, as a list or as text with commas; or None."""
    if value is None:
        return None
    listed = value.split(",") if isinstance(value, str) else value
    words = cast(Sequence[object], listed) if isinstance(listed, list | tuple) else ()
    types = tuple(word.strip() for word in words if isinstance(word, str) and word.strip().isidentifier())
    if not types or len(types) != len(words):
        raise wrong("op_type", "the type of an op such as conv (no pattern), or several", value)
    return types


def glob(name: str) -> Callable[[object], str | None]:
    """A glob, or None."""

    def read(value: object) -> str | None:
        if value is None or (isinstance(value, str) and value):
            return value
        raise wrong(name, "a text such as 'stem*' (a number in quotes)", value)

    return read


def content(value: object) -> str | None:
    """A weight's ``content``, or None."""
    if value is None or (isinstance(value, str) and re.fullmatch(r"\d+(x\d+)*:[0-9a-f]{16}", value)):
        return value
    raise wrong("content", "a shape and 16 hexadecimal digits, such as 64x32x3x3:0123456789abcdef", value)


def _members(value: object) -> Sequence[object] | None:
    """The members of a list or tuple, typed or as text in brackets; None for anything else."""
    if isinstance(value, list | tuple):
        return cast(Sequence[object], value)
    if isinstance(value, str) and re.fullmatch(r"\s*(\(.*\)|\[.*\])\s*", value):
        return [part for part in value.strip()[1:-1].split(",") if part.strip()]
    return None
