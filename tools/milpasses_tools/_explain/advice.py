"""What users reported of compressed forms and ops on Apple's compute units: a table, matched with a model.

The table is ``advice.yaml``, whose head says how an entry is written. Nothing of it was tried by the authors
of milpasses: each entry cites the thread that reports it.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any, Literal, cast, get_args

import attrs

from milpasses.encoding.encodings import Encoding, Palettized, Quantized, Scaled, Sparse
from milpasses.errors import MilpassesError, did_you_mean

Unit = Literal["neural-engine", "gpu", "cpu"]
UNITS: tuple[str, ...] = get_args(Unit)
Facts = dict[str, Any]
NOTE = "reported by users in the threads named; untried by milpasses' authors"

# What is known of each kind of thing in a model, so that a condition can ask for it.
FACTS: dict[str, tuple[str, ...]] = {
    "weight": (
        "op", "kind", "dtype", "nbits", "granularity", "zero_point", "cluster_dim", "table", "scaled",
        "used_by",
    ),
    "op": ("type", "dtype", "first", "rank"),
    "input": ("type", "shapes"),
    "state": ("last",),
}  # fmt: skip
_TESTS = ("min", "max", "no_multiple_of")
_GRANULARITY = re.compile(r"per_(?:tensor|channel|grouped_channel|block)")


@attrs.frozen
class Advice:
    """An entry of the table. ``when`` maps a kind of thing to the facts that it must have."""

    id: str
    units: tuple[str, ...]
    when: dict[str, Facts]
    says: str
    reported: str
    sources: tuple[str, ...]
    remedy: str
    recipe: str = ""


@attrs.frozen
class Finding:
    """An entry that matches a model, and the names of what in it does, by kind (``weight``, ``op``, ...)."""

    advice: Advice
    matches: dict[str, tuple[str, ...]]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = attrs.asdict(self.advice, filter=lambda field, _: field.name != "when")
        names = {kind: list(found) for kind, found in self.matches.items()}
        return {
            **plain,
            "units": list(self.advice.units),
            "sources": list(self.advice.sources),
            "matches": names,
        }


@cache
def table() -> tuple[Advice, ...]:
    """The table, checked; raises ``MilpassesError`` for an entry that is not as it should be."""
    import yaml

    text = files("milpasses_tools._explain").joinpath("advice.yaml").read_text(encoding="utf-8")
    return tuple(read_entry(entry) for entry in yaml.safe_load(text))


def read_entry(entry: Mapping[str, Any]) -> Advice:
    """One entry as it stands in the file; raises ``MilpassesError`` with what is wrong."""
    where = f"advice {entry.get('id', '?')}"
    fields = attrs.fields_dict(Advice)
    if set(entry) - set(fields) or set(fields) - set(entry) - {"recipe"}:
        raise MilpassesError(f"{where}: its fields must be {', '.join(fields)}; recipe may be left out")
    if not entry["units"] or set(entry["units"]) - set(UNITS):
        raise MilpassesError(f"{where}: units must be some of {', '.join(UNITS)}")
    if not entry["sources"] or not all(str(one).startswith("https://") for one in entry["sources"]):
        raise MilpassesError(f"{where}: sources must be addresses of the threads that report it")
    for kind, facts in entry["when"].items():
        unknown = [fact for fact in facts if kind not in FACTS or _split(kind, fact)[0] not in FACTS[kind]]
        if kind not in FACTS or unknown:
            raise MilpassesError(f"{where}: when: nothing is known of {kind} {' '.join(map(str, unknown))}")
    if not entry["when"]:
        raise MilpassesError(f"{where}: when: it matches everything")
    fields_read: dict[str, Any] = {
        **entry,
        "units": tuple(entry["units"]),
        "sources": tuple(entry["sources"]),
    }
    return Advice(**fields_read)


def _split(kind: str, key: str) -> tuple[str, str]:
    """``first_min`` is the fact ``first`` and the test ``min``."""
    for test in _TESTS:
        if key.endswith(f"_{test}"):
            return key.removesuffix(f"_{test}"), test
    return key, ""


def matches(kind: str, conditions: Mapping[str, Any], facts: Facts) -> bool:
    """Whether every condition holds; a fact that is not known meets none."""
    for key, wanted in conditions.items():
        fact, test = _split(kind, key)
        known = facts.get(fact)
        if known is None or not _holds(known, test, wanted):
            return False
    return True


def _holds(known: Any, test: str, wanted: Any) -> bool:
    if test == "min":
        return known >= wanted
    if test == "max":
        return known <= wanted
    if test == "no_multiple_of":
        return known % wanted != 0
    allowed = cast("list[Any]", wanted) if isinstance(wanted, list) else [wanted]
    values = cast("tuple[Any, ...]", known) if isinstance(known, tuple) else (known,)
    return any(value in allowed for value in values)


def full_names(units: Iterable[str]) -> tuple[str, ...]:
    """``units`` with ``ane`` as what it is short for."""
    return tuple("neural-engine" if unit.lower() == "ane" else unit.lower() for unit in units)


def advise(units: Iterable[str], things: Mapping[str, Iterable[tuple[str, Facts]]]) -> tuple[Finding, ...]:
    """The entries for ``units`` that match ``things``: the facts of each thing with its name, by kind.

    An entry with conditions on several kinds needs a match of each. Raises ``MilpassesError`` for a unit that
    there is none of.
    """
    wanted = full_names(units)
    unknown = [unit for unit in wanted if unit not in UNITS]
    if unknown:
        nearest = did_you_mean(unknown[0], UNITS)
        raise MilpassesError(
            f"there is no compute unit {unknown[0]!r}{nearest}; there are {', '.join(UNITS)}"
        )
    known = {kind: list(things.get(kind, ())) for kind in FACTS}
    findings: list[Finding] = []
    for advice in table():
        if not set(advice.units) & set(wanted):
            continue
        found = {
            kind: tuple(
                dict.fromkeys(name for name, facts in known[kind] if matches(kind, conditions, facts))
            )
            for kind, conditions in advice.when.items()
        }
        if all(found.values()):
            findings.append(Finding(advice, found))
    return tuple(findings)


def weight_facts(encoding: Encoding, op: str, used_by: tuple[str, ...]) -> Facts:
    """What is known of a compressed weight; ``op`` is the constexpr op that gives it."""
    parts = list(_parts(encoding))
    codes = next((one for one in parts if isinstance(one, Quantized | Palettized)), None)
    granularity = _GRANULARITY.search(encoding.form)
    facts: Facts = {
        "op": op,
        "kind": tuple(type(one).__name__.lower() for one in parts),
        "granularity": None if granularity is None else granularity[0],
        "scaled": isinstance(encoding, Scaled),
        "used_by": used_by,
    }
    if isinstance(codes, Quantized):
        zero_point = codes.zero_point is not None and bool(codes.zero_point.any())
        facts |= {"dtype": codes.dtype, "nbits": int(codes.dtype[-1]), "zero_point": zero_point}
    elif isinstance(codes, Palettized):
        entries = codes.lut.dtype if isinstance(codes.lut, Quantized) else "plain"
        facts |= {"nbits": codes.nbits, "cluster_dim": codes.cluster_dim, "table": entries}
        facts["scaled"] |= isinstance(codes.lut, Scaled)  # coremltools moves a scale after a table into it
    return facts


def _parts(encoding: Any) -> Iterable[Any]:
    """An encoding, and those inside it."""
    yield encoding
    if isinstance(encoding, Scaled):
        yield from _parts(encoding.inner)
    elif isinstance(encoding, Sparse) and isinstance(encoding.values, Quantized | Palettized):
        yield encoding.values


def op_facts(block: Any) -> Iterable[tuple[str, Facts]]:
    """The ops of a block of a saved program and of the blocks inside it; constants left out."""
    from milpasses.program.proto import tensor_type
    from milpasses.program.saved import op_name, walk

    for op in walk(block):
        if op.type == "const" or op.type.startswith("constexpr_"):
            continue
        known = tensor_type(op.outputs[0].type) if op.outputs else None
        facts: Facts = {"type": op.type}
        if known is not None:
            dtype, shape = known
            facts |= {"dtype": dtype, "rank": len(shape), "first": shape[0] if shape else None}
        yield op_name(op), facts


def feature_facts(description: Any) -> dict[str, list[tuple[str, Facts]]]:
    """The inputs and states that a model's description names, those of all functions."""
    found: dict[str, list[tuple[str, Facts]]] = {"input": [], "state": []}
    for one in (description, *description.functions):
        for feature in one.input:
            kind = feature.type.WhichOneof("Type")
            array = getattr(feature.type, str(kind))
            name = next(
                (n for n in ("ShapeFlexibility", "SizeFlexibility") if n in array.DESCRIPTOR.oneofs_by_name),
                "",
            )
            which = array.WhichOneof(name) if name else None
            shapes = "fixed" if not which else "enumerated" if which.startswith("enumerated") else "range"
            found["input"].append((feature.name, {"type": kind, "shapes": shapes}))
        for feature in one.state:
            shape = feature.type.stateType.arrayType.shape
            found["state"].append((feature.name, {"last": shape[-1] if shape else None}))
    return found
