"""Terms, short names and rules as text, taken apart and written. Knows no scheme class.

Short names
-----------
A short name is a head and suffixes, in any order, none twice; ``+`` joins two of them::

    int8 | uint8 | int4 | uint4       quantize, per channel, symmetric, scales searched for
        -b<N> | -tensor  -asym        per block of N or per tensor; mode=linear
        -minmax | -gptq | -tune       method=minmax; method=gptq; method=tune
    pal<bits> | unique                palettize: k-means of that many bits a code, or the values there are
        -g<N>  -v<D>  -uniform        groups of N channels; cluster_dim=D; mode=uniform
        -gptq | -tune                 method=gptq; method=tune
    sparse<percent> | sparse<n>of<m>  prune that share (sparse62.5), or n of every m; -obs: method=obs
    half                              float32 stored as float16
    keep | float                      leave the weight as it is

``sparse50+pal4``, ``sparse50+int8``; after a palettize the quantize holds the lookup table's entries, so
``pal4+int8`` means per tensor without saying it.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from milpasses.errors import did_you_mean, shown
from milpasses.recipe.errors import RecipeError, comma

Fields = dict[str, object]


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
            raise RecipeError(f"{term}: expected field=value, not {shown(part)}")
        if name in fields:
            raise RecipeError(f"{term}: {name} given twice")
        quoted = re.fullmatch(r"(['\"])(.*)\1", value)
        fields[name] = quoted[2] if quoted else value
    return fields


# The README's table but for "a8"; each is a pass as well, and of these "-gptq" and "-obs" need the option
# statistics.
SHORT_NAMES = (
    *("int8", "uint8", "int8-tensor", "int8-asym"),
    *("int4", "int4-b32"),
    *("pal8", "pal6", "pal4", "pal2", "pal1"),
    *("pal3", "pal4-g16", "pal4-v2"),
    *("sparse50", "sparse2of4"),
    *("sparse50+pal4", "sparse50+int8", "pal4+int8"),
    *("pal4-g16-gptq", "int4-b32-gptq", "sparse50-obs"),
    *("unique", "half", "keep"),
)

_ACCEPTED = (
    "int8, uint8, int4, uint4, pal<bits>, unique, sparse<percent>, sparse<n>of<m>, half, keep, with suffixes "
    "(int4-b32, pal4-g16), two joined by +, or written out: quantize(...), palettize(...), prune(...), "
    "half(), keep()"
)

# The suffixes of each kind: the fields they set, and the field that takes the number behind them.
_SUFFIXES: dict[str, dict[str, tuple[dict[str, str], str | None]]] = {
    "quantize": {
        "b": ({"granularity": "per_block"}, "block_size"),
        "tensor": ({"granularity": "per_tensor"}, None),
        "asym": ({"mode": "linear"}, None),
        "minmax": ({"method": "minmax"}, None),
        "gptq": ({"method": "gptq"}, None),
        "tune": ({"method": "tune"}, None),
    },
    "palettize": {
        "g": ({"granularity": "per_grouped_channel"}, "group_size"),
        "v": ({}, "cluster_dim"),
        "uniform": ({"mode": "uniform"}, None),
        "gptq": ({"method": "gptq"}, None),
        "tune": ({"method": "tune"}, None),
    },
    "prune": {"obs": ({"method": "obs"}, None)},
    "half": {},
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
    if head == "half":
        return "half", {}
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
    raise RecipeError(f"unknown scheme {text!r}{did_you_mean(text, SHORT_NAMES)}; accepted: {_ACCEPTED}")


def write_short(kind: str, fields: Mapping[str, Any]) -> str:
    """The short name nearest to a scheme, given all its fields: read it back to see whether it is exact."""
    if kind in ("half", "keep"):
        return kind
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


def read_rules(text: str) -> tuple[str, list[tuple[Fields, str]], dict[str, str]]:
    """Take ``default; setting=value; condition=value condition=value -> scheme; ...`` apart.

    Returns the text of the default scheme, for each rule its conditions and the text of its scheme, and the
    settings of the recipe.
    """
    pieces = _split_quoted(text, ";")
    rules: list[tuple[Fields, str]] = []
    settings: dict[str, str] = {}
    for piece in pieces[1:]:
        if setting := re.fullmatch(r"(scope|rest)\s*=\s*([\w()=-]+)", piece):
            if setting[1] in settings:
                raise RecipeError(f"{setting[1]} given twice")
            settings[setting[1]] = setting[2]
            continue
        index = len(rules) + 1
        sides = _split_quoted(piece, "->")
        if len(sides) != 2:
            raise RecipeError(f"rule {index}: expected 'conditions -> scheme', not {shown(piece)}")
        rules.append((_conditions(f"rule {index}", sides[0]), sides[1]))
    return pieces[0], rules, settings


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
        condition = re.match(rf'(\w+)=({_QUOTED}|[^\s";]+)(?:\s+|$)', text)
        if not condition:
            raise RecipeError(f'{where}: expected condition=value or condition="value", not {shown(text)}')
        name, value = condition.groups()
        if name in fields:
            raise RecipeError(f"{where}: {name} given twice")
        try:
            fields[name] = json.loads(value) if value.startswith('"') else value
        except json.JSONDecodeError as error:
            raise RecipeError(f"{where}: {name}: {value} is not a quoted text: {error}") from None
        text = text[condition.end() :]
    return fields


def condition_text(value: Any) -> str:
    """A condition's value as ``read_rules`` takes it, in quotes where it has to be."""
    text = value_text(value)
    plain = re.fullmatch(r'[^\s";>]+', text) and text.isprintable()
    return text if plain or callable(value) else json.dumps(text)
