"""Text to values and back: the fields, terms, short names and rules of a recipe. Knows no scheme class.

Short names
-----------
A short name is a head and suffixes, in any order, none twice; ``+`` joins two of them::

    int8 | uint8 | int4 | uint4       quantize, per channel, symmetric, scales searched for
        -b<N> | -tensor  -asym        per block of N or per tensor; mode=linear
        -minmax | -gptq               method=minmax; method=gptq
    pal<bits> | unique                palettize: k-means of that many bits a code, or the values there are
        -g<N>  -v<D>  -uniform -gptq  groups of N channels; cluster_dim=D; mode=uniform; method=gptq
    sparse<percent> | sparse<n>of<m>  prune that share (sparse62.5), or n of every m; -obs: method=obs
    keep | float                      leave the weight as it is

``sparse50+pal4``, ``sparse50+int8``; after a palettize the quantize holds the lookup table's entries, so
``pal4+int8`` means per tensor without saying it.
"""

import json
import math
import re
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import Enum
from numbers import Integral, Real
from typing import Any, TypeVar, cast

from milpasses.errors import MilpassesError

T = TypeVar("T")
Fields = dict[str, object]


class RecipeError(MilpassesError):
    """A recipe, or a field of one, that cannot be: says which, what was expected and what was given."""


def wrong(name: str, expected: str, given: object) -> RecipeError:
    """The error of a field whose value cannot be."""
    return RecipeError(f"{name}: expected {expected}, not {given!r}")


def check_names(what: str, given: Iterable[object], accepted: Iterable[str]) -> None:
    """Refuse names that are not accepted, and list those that are."""
    known = list(accepted)
    if unknown := [name for name in given if name not in known]:
        raise RecipeError(
            f"{what}: unknown {comma(map(repr, unknown))}; accepted: {comma(known) or 'nothing'}"
        )


@contextmanager
def at(place: str) -> Generator[None, None, None]:
    """Say where in a recipe an error is."""
    try:
        yield
    except RecipeError as error:
        raise RecipeError(f"{place}: {error}") from None


def comma(words: Iterable[object]) -> str:
    """The words with commas between."""
    return ", ".join(map(str, words))


# Converters of one field: each takes the value typed or as text, and returns it typed.


def optional(convert: Callable[[object], T]) -> Callable[[object], T | None]:
    """``convert``, where None (or ``none``) is a value too."""

    def read(value: object) -> T | None:
        absent = value is None or (isinstance(value, str) and value.strip().lower() == "none")
        return None if absent else convert(value)

    return read


def one_of(name: str, *accepted: str) -> Callable[[object], str]:
    """One of a few words, in any case; an enum's member counts as its name."""

    def read(value: object) -> str:
        word = value.name if isinstance(value, Enum) else value
        if not isinstance(word, str) or word.strip().lower() not in accepted:
            raise wrong(name, f"one of {comma(accepted)}", value)
        return word.strip().lower()

    return read


def dtype_of(name: str, *accepted: str) -> Callable[[object], str]:
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
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?\d+\s*", value):
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
    given = value.split(",") if isinstance(value, str) else value
    words = cast(Sequence[object], given) if isinstance(given, list | tuple) else ()
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


def _members(value: object) -> Sequence[object] | None:
    """The members of a list or tuple, typed or as text in brackets; None for anything else."""
    if isinstance(value, list | tuple):
        return cast(Sequence[object], value)
    if isinstance(value, str) and re.fullmatch(r"\s*(\(.*\)|\[.*\])\s*", value):
        return [part for part in value.strip()[1:-1].split(",") if part.strip()]
    return None


def value_text(value: object) -> str:
    """A field's value as ``read_terms`` takes it; a function shows its name, which does not read back."""
    if isinstance(value, bool):
        return str(value).lower()
    if callable(value):
        return f"<{getattr(value, '__qualname__', type(value).__qualname__)}>"
    return str(value)


# Terms: what a scheme's text is made of.


def read_terms(text: str) -> list[tuple[str, Fields]]:
    """Take ``quantize(dtype=int8)``, a short name, or several joined by ``+``, apart.

    Returns the kind of each scheme (``"quantize"``) and its fields as given. What a field may hold is not
    checked here.
    """
    terms: list[tuple[str, Fields]] = []
    for part in _split(text, "+"):
        if written_out := re.fullmatch(r"(\w+)\s*\((.*)\)", part, re.DOTALL):
            terms.append((written_out[1], _arguments(part, written_out[2])))
            continue
        kind, fields = _read_short(part)
        if kind == "quantize" and terms and terms[-1][0] == "palettize":
            fields.setdefault("granularity", "per_tensor")
        terms.append((kind, fields))
    return terms


def _split(text: str, separator: str) -> list[str]:
    """Split at a character that stands outside brackets; the parts come stripped."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "([") - (character in ")]")
        if character == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts]


def _arguments(term: str, text: str) -> Fields:
    fields: Fields = {}
    for part in _split(text, ",") if text.strip() else ():
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not name or not value:
            raise RecipeError(f"{term}: expected field=value, not {part!r}")
        if name in fields:
            raise RecipeError(f"{term}: {name} given twice")
        quoted = re.fullmatch(r"(['\"])(.*)\1", value)
        fields[name] = quoted[2] if quoted else value
    return fields


_ACCEPTED = (
    "int8, uint8, int4, uint4, pal<bits>, unique, sparse<percent>, sparse<n>of<m>, keep, with suffixes "
    "(int4-b32, pal4-g16), two joined by +, or written out: quantize(...), palettize(...), prune(...), keep()"
)

# The suffixes of each kind: the fields they set, and the field that takes the number behind them.
_SUFFIXES: dict[str, dict[str, tuple[dict[str, str], str | None]]] = {
    "quantize": {
        "b": ({"granularity": "per_block"}, "block_size"),
        "tensor": ({"granularity": "per_tensor"}, None),
        "asym": ({"mode": "linear"}, None),
        "minmax": ({"method": "minmax"}, None),
        "gptq": ({"method": "gptq"}, None),
    },
    "palettize": {
        "g": ({"granularity": "per_grouped_channel"}, "group_size"),
        "v": ({}, "cluster_dim"),
        "uniform": ({"mode": "uniform"}, None),
        "gptq": ({"method": "gptq"}, None),
    },
    "prune": {"obs": ({"method": "obs"}, None)},
    "keep": {},
}


def _read_short(text: str) -> tuple[str, Fields]:
    head, *suffixes = text.lower().split("-")
    kind, fields = _read_head(head, text)
    accepted = _SUFFIXES[kind]
    for suffix in suffixes:
        word, digits = suffix.rstrip("0123456789"), suffix.lstrip("abcdefghijklmnopqrstuvwxyz")
        sets, numbered = accepted.get(word, ({}, None))
        if word not in accepted or word + digits != suffix or bool(digits) != bool(numbered):
            known = comma(f"-{word}<N>" if sets[1] else f"-{word}" for word, sets in accepted.items())
            raise RecipeError(
                f"{text}: unknown suffix '-{suffix}'; accepted after {head}: {known or 'nothing'}"
            )
        added = sets | ({numbered: digits} if numbered else {})
        if twice := added.keys() & fields.keys():
            raise RecipeError(f"{text}: {comma(sorted(twice))} given twice")
        fields |= added
    return kind, fields


def _read_head(head: str, text: str) -> tuple[str, Fields]:
    if head in ("keep", "float"):
        return "keep", {}
    if re.fullmatch(r"u?int\d+", head):
        return "quantize", {"dtype": head}
    if head == "unique":
        return "palettize", {"mode": "unique"}
    if bits := re.fullmatch(r"pal(\d+)", head):
        return "palettize", {"nbits": bits[1]}
    if n_of_m := re.fullmatch(r"sparse(\d+)of(\d+)", head):
        return "prune", {"n_m_ratio": n_of_m.groups()}
    if percent := re.fullmatch(r"sparse(\d+(?:\.\d+)?)", head):
        return "prune", {"target_sparsity": float(percent[1] + "e-2")}
    raise RecipeError(f"unknown scheme {text!r}; accepted: {_ACCEPTED}")


def write_short(kind: str, fields: Mapping[str, Any]) -> str:
    """The short name nearest to a scheme, given all its fields: read it back to see whether it is exact."""
    if kind == "keep":
        return "keep"
    if kind == "prune":
        n_of_m, percent = fields["n_m_ratio"], f"{100 * (fields['target_sparsity'] or 0):.6f}"
        name = "sparse{}of{}".format(*n_of_m) if n_of_m else "sparse" + percent.rstrip("0").rstrip(".")
    else:
        palettized = f"pal{fields['nbits']}" if fields.get("nbits") else "unique"
        name = fields["dtype"] if kind == "quantize" else palettized
    for word, (sets, numbered) in _SUFFIXES[kind].items():
        if any(fields[field] != value for field, value in sets.items()):
            continue
        if not numbered or sets or fields[numbered] != 1:  # cluster_dim=1 is no vector
            name += f"-{word}{fields[numbered] if numbered else ''}"
    return name


# Rules: what a recipe's one-line text is made of.

_QUOTED = r'"(?:\\.|[^"\\])*"'


def read_rules(text: str) -> tuple[str, list[tuple[Fields, str]]]:
    """Take ``default; condition=value condition=value -> scheme; ...`` apart.

    Returns the text of the default scheme, and for each rule its conditions and the text of its scheme.
    """
    pieces = _split_quoted(text, ";")
    rules: list[tuple[Fields, str]] = []
    for index, piece in enumerate(pieces[1:], 1):
        sides = _split_quoted(piece, "->")
        if len(sides) != 2:
            raise RecipeError(f"rule {index}: expected 'conditions -> scheme', not {piece!r}")
        rules.append((_conditions(f"rule {index}", sides[0]), sides[1]))
    return pieces[0], rules


def _split_quoted(text: str, separator: str) -> list[str]:
    """Split at a separator that stands outside double quotes; the parts come stripped."""
    parts = [""]
    for piece in re.findall(rf"{_QUOTED}|{re.escape(separator)}|.", text, re.DOTALL):
        if piece == separator:
            parts.append("")
        else:
            parts[-1] += piece
    return [part.strip() for part in parts]


def _conditions(where: str, text: str) -> Fields:
    fields: Fields = {}
    while text:
        found = re.match(rf'(\w+)=({_QUOTED}|[^\s";]+)(?:\s+|$)', text)
        if not found:
            raise RecipeError(f'{where}: expected condition=value or condition="value", not {text!r}')
        name, value = found.groups()
        if name in fields:
            raise RecipeError(f"{where}: {name} given twice")
        try:
            fields[name] = json.loads(value) if value.startswith('"') else value
        except json.JSONDecodeError as error:
            raise RecipeError(f"{where}: {name}: {value} is not a quoted text: {error}") from None
        text = text[found.end() :]
    return fields


def condition_text(value: Any) -> str:
    """A condition's value as ``read_rules`` takes it, in quotes where it has to be."""
    text = value_text(value)
    plain = re.fullmatch(r'[^\s";>]+', text) and text.isprintable()
    return text if plain or callable(value) else json.dumps(text)
