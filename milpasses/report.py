"""What happened to each weight: one record each, totals, and the forms in which people read them."""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from importlib.metadata import version
from typing import Any, Literal

import attrs
import cattrs

from milpasses.errors import Refusal

Status = Literal["compressed", "kept", "skipped"]
METADATA_KEY = "milpasses.report"


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise): infinite without noise, minus infinity without signal."""
    if noise <= 0:
        return math.inf
    return 10 * (math.log10(signal) - math.log10(noise)) if signal > 0 and noise != math.inf else -math.inf


@attrs.frozen
class Record:
    """What happened to one weight.

    ``compressed``: it now has ``form``. ``kept``: the recipe leaves it as it is. ``skipped``: the recipe
    wanted it, but ``refusal`` says why not, as a code and numbers; ``refused`` says that this was for what
    the weight is (values, channels) and not for the recipe's conditions. ``notes`` are what was changed or
    chosen on the way. ``sqnr_db`` is 10 log10(sum w^2 / sum (w - w')^2), infinite where nothing was lost;
    ``max_error`` is the largest |w - w'|. Bytes count codes, tables, scales, masks. ``method`` says how the
    codes of a calibrated weight were chosen, ``output_sqnr_db`` what the op's outputs lost by it:
    10 log10(E|W x|^2 / E|(W - W') x|^2) on held-out samples, where there are some.
    ``rule`` says which rule decided, ``rule_index`` its place in the recipe's rules, None for the default.
    """

    name: str
    status: Status
    form: str
    shape: tuple[int, ...]
    dtype: str
    bytes_before: int
    bytes_after: int
    refusal: Refusal | None = None
    notes: tuple[str, ...] = ()
    sqnr_db: float | None = None
    max_error: float | None = None
    rule: str = "default"
    scheme: str = ""
    consumers: tuple[str, ...] = ()
    functions: tuple[str, ...] = ("main",)
    refused: bool = False
    method: str = ""
    output_sqnr_db: float | None = None
    rule_index: int | None = None

    @property
    def reason(self) -> str:
        """The refusal in words, or the notes; of a weight that a rule keeps, the rule."""
        if self.refusal is not None:
            return str(self.refusal)
        return "; ".join(self.notes) or (self.rule if self.status == "kept" else "")

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each element."""
        return 8 * self.bytes_after / max(self.size, 1)

    def row(self) -> dict[str, Any]:
        """A flat dictionary, ready for a table or a DataFrame; JSON has no infinity, so it becomes text.

        ``code`` is the refusal's, empty where there is none.
        """
        row: dict[str, Any] = _CONVERTER.unstructure(self)
        row["code"] = "" if self.refusal is None else self.refusal.code
        row["reason"] = self.reason
        del row["refusal"], row["notes"]
        row["shape"] = "x".join(map(str, self.shape))
        row["consumers"] = " ".join(self.consumers)
        row["functions"] = " ".join(self.functions)
        row["bits_per_weight"] = round(self.bits_per_weight, 4)
        return row


def _rounded(value: float | None) -> float | str | None:
    if value is None:
        return None
    return str(value) if math.isinf(value) else round(value, 3)


_CONVERTER = cattrs.Converter()
_CONVERTER.register_unstructure_hook(
    Record,
    cattrs.gen.make_dict_unstructure_fn(
        Record,
        _CONVERTER,
        refusal=cattrs.gen.override(unstruct_hook=lambda refusal: refusal),
        sqnr_db=cattrs.gen.override(unstruct_hook=_rounded),
        output_sqnr_db=cattrs.gen.override(unstruct_hook=_rounded),
    ),
)


@attrs.frozen
class ActivationRecord:
    """What happened to one activation: quantized with ``scale`` and ``zero_point``, or left float, and why.

    ``low`` and ``high``: the range that its grid covers, which ``tensors`` share. ``method``: how the range
    was chosen; ``sqnr_db``: what the rounding loses on data, where measured. ``uses``: ``op:type.param``.
    """

    name: str
    status: Literal["quantized", "float"]
    dtype: str = ""
    low: float | None = None
    high: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    method: str = ""
    sqnr_db: float | None = None
    refusal: Refusal | None = None
    tensors: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    function: str = "main"

    @property
    def reason(self) -> str:
        """Why it is float, in words."""
        return "" if self.refusal is None else str(self.refusal)

    def row(self) -> dict[str, Any]:
        """A flat dictionary, without what is not known."""
        row = attrs.asdict(self, filter=lambda field, _: field.name != "refusal")
        row |= {"tensors": " ".join(self.tensors), "uses": " ".join(self.uses), "reason": self.reason}
        row["sqnr_db"] = _rounded(self.sqnr_db)
        return {name: value for name, value in row.items() if value not in ("", None)}

    def __str__(self) -> str:
        if self.status == "float":
            return f"activation {self.name}: float: {self.reason}"
        measured = "" if self.sqnr_db is None else f", {self.sqnr_db:.1f} dB"
        return (
            f"activation {self.name}: {self.dtype}, {self.low:g} to {self.high:g} by {self.method}{measured}"
        )


@attrs.frozen
class OutputRecord:
    """What calibration did to one output of the model: 10 log10(sum y^2 / sum (y - y')^2), in dB.

    Over ``samples`` held-out samples, with the weights as they are now and, ``plain_sqnr_db``, as they would
    be without data.
    """

    name: str
    sqnr_db: float
    plain_sqnr_db: float
    samples: int

    def row(self) -> dict[str, Any]:
        """A flat dictionary; an infinite ratio is text."""
        decibels = {"sqnr_db": _rounded(self.sqnr_db), "plain_sqnr_db": _rounded(self.plain_sqnr_db)}
        return {"name": self.name, **decibels, "samples": self.samples}

    def __str__(self) -> str:
        return (
            f"output {self.name}: {self.sqnr_db:.1f} dB on {self.samples} held-out samples, "
            f"{self.plain_sqnr_db:.1f} dB without data"
        )


@attrs.define
class Report:
    """The records of one compression, in the order of the program; ``notes`` are of the model as a whole.

    ``unmatched``: a sentence for each rule of the recipe that decided no weight. ``outputs``: of a model that
    was calibrated on data, what its outputs lose.
    """

    recipe: str = ""
    records: list[Record] = attrs.field(factory=list)
    unmatched: list[str] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)
    activations: list[ActivationRecord] = attrs.field(factory=list)
    outputs: list[OutputRecord] = attrs.field(factory=list)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __repr__(self) -> str:
        return f"<Report: {self.summary()}>"

    def summary(self) -> str:
        """How many weights were compressed, and their bytes, in one line."""
        sizes = f"{self.bytes_before:,} -> {self.bytes_after:,} bytes"
        return f"{self.count('compressed')} of {len(self)} weights compressed, {sizes}"

    def _repr_html_(self) -> str:
        columns = ("weight", "status", "form", "bits", "bytes before", "after", "SQNR dB", "why")
        rows = [
            (
                one.name, one.status, one.form, f"{one.bits_per_weight:.2f}", f"{one.bytes_before:,}",
                f"{one.bytes_after:,}", "" if one.sqnr_db is None else f"{one.sqnr_db:.1f}", one.reason,
            )
            for one in self.records
        ]  # fmt: skip
        return html_table(columns, rows, f"{self.summary()}, by {abridged(self.recipe)}")

    def __getitem__(self, name: "str | int") -> Record:
        """The record of the weight of that name, or at that place in the order of the program.

        Raises ``KeyError`` for a name that no weight has, ``IndexError`` for a place that is none.
        """
        if isinstance(name, int):
            return self.records[name]
        for record in self.records:
            if record.name == name:
                return record
        raise KeyError(f"no weight {name!r} in the report")

    def count(self, status: Status) -> int:
        """Number of weights with that status."""
        return sum(record.status == status for record in self.records)

    @property
    def bytes_before(self) -> int:
        """Stored bytes of all weights before."""
        return sum(record.bytes_before for record in self.records)

    @property
    def bytes_after(self) -> int:
        """Stored bytes of all weights after."""
        return sum(record.bytes_after for record in self.records)

    @property
    def bits_per_weight(self) -> float:
        """Stored bits for each element, over all weights."""
        return 8 * self.bytes_after / max(sum(record.size for record in self.records), 1)

    def totals(self) -> dict[str, Any]:
        """Counts, bytes, bits a weight and the smallest SQNR, as plain numbers."""
        errors = [r.sqnr_db for r in self.records if r.sqnr_db is not None]
        worst = min(errors, default=math.inf)
        quantized = sum(record.status == "quantized" for record in self.activations)
        totals = {"quantized_activations": quantized, "float_activations": len(self.activations) - quantized}
        return {
            "weights": len(self.records),
            "compressed": self.count("compressed"),
            "kept": self.count("kept"),
            "skipped": self.count("skipped"),
            "bytes_before": self.bytes_before,
            "bytes_after": self.bytes_after,
            "bits_per_weight": round(self.bits_per_weight, 4),
            "worst_sqnr_db": None if math.isinf(worst) else round(worst, 3),
            **(totals if self.activations else {}),
        }

    def add_part(self, name: str, part: "Report") -> None:
        """Take over what ``part`` says of one part of a pipeline; names become ``part/weight``."""
        self.recipe = part.recipe
        self.notes += [f"{name}: {note}" for note in part.notes]
        self.records += [attrs.evolve(record, name=f"{name}/{record.name}") for record in part.records]
        self.outputs += [attrs.evolve(record, name=f"{name}/{record.name}") for record in part.outputs]
        self.activations += [
            attrs.evolve(record, name=f"{name}/{record.name}") for record in part.activations
        ]

    def _other_rows(self) -> dict[str, Any]:
        rows = {
            "activations": [record.row() for record in self.activations],
            "outputs": [record.row() for record in self.outputs],
        }
        return {name: found for name, found in rows.items() if found}

    def to_rows(self) -> list[dict[str, Any]]:
        """One flat dictionary a weight: ``pandas.DataFrame(report.to_rows())``."""
        return [record.row() for record in self.records]

    def to_json(self, indent: int | None = None) -> str:
        """Everything as JSON: version, recipe, rules that matched nothing, totals, weights."""
        content = {
            "milpasses": version("milpasses"),
            "recipe": self.recipe,
            "unmatched": self.unmatched,
            "totals": self.totals(),
            "notes": self.notes,
            "weights": self.to_rows(),
            **self._other_rows(),
        }
        return json.dumps(content, indent=indent)

    def to_metadata(self) -> str:
        """The compact JSON that a saved model carries under ``milpasses.report``.

        Weights of which it says the same share an entry, with all their ``names``. ``rule`` counts the
        recipe's rules from 1; it is left out where the default decided.
        """
        alike: dict[str, dict[str, Any]] = {}
        for record in self.records:
            kept = {
                key: value
                for key, value in record.row().items()
                if key in ("status", "code", "reason", "form", "sqnr_db", "method", "output_sqnr_db")
                and value not in ("", None)
            }
            if record.refusal is not None and record.refusal.details:
                kept["details"] = record.refusal.details
            if record.rule_index is not None:
                kept["rule"] = record.rule_index + 1
            alike.setdefault(json.dumps(kept, default=str), {"names": [], **kept})["names"].append(
                record.name
            )
        content = {
            "milpasses": version("milpasses"),
            "recipe": self.recipe,
            **({"unmatched": self.unmatched} if self.unmatched else {}),
            "totals": self.totals(),
            **({"notes": self.notes} if self.notes else {}),
            "weights": list(alike.values()),
            **self._other_rows(),
        }
        return json.dumps(content, separators=(",", ":"), default=str)

    def __str__(self) -> str:
        rows = [("weight", "status", "form", "bits", "bytes", "SQNR dB", "why")]
        for record in self.records:
            sqnr = "" if record.sqnr_db is None else f"{record.sqnr_db:.1f}"
            size = f"{record.bytes_before} -> {record.bytes_after}"
            bits = f"{record.bits_per_weight:.2f}"
            rows.append((record.name, record.status, record.form, bits, size, sqnr, record.reason))
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = [
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        ]
        totals = self.totals()
        lines.append(
            f"{totals['compressed']} of {totals['weights']} weights compressed, "
            f"{totals['bytes_before']} -> {totals['bytes_after']} bytes, "
            f"{totals['bits_per_weight']:.2f} bits a weight"
        )
        if self.activations:
            lines += map(str, self.activations)
            lines.append(
                f"{totals['quantized_activations']} of {len(self.activations)} activations quantized"
            )
        lines += map(str, self.outputs)
        return "\n".join([*lines, *self.unmatched, *(f"note: {note}" for note in self.notes)])


def abridged(text: str, most: int = 100) -> str:
    """``text`` in one line of at most so many characters, the end left out."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most - 3]}..."


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]], caption: str) -> str:
    """A table as notebooks show it; texts are escaped."""
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in row)}</tr>" for row in rows)
    return f"<table><caption>{escape(caption)}</caption><tr>{head}</tr>{body}</table>"


def read_metadata(text: str) -> dict[str, Any]:
    """What ``Report.to_metadata`` wrote, an entry with its ``name`` for each weight; empty if unreadable."""
    try:
        report = json.loads(text)
        weights: list[dict[str, Any]] = []
        for entry in report["weights"]:
            names = entry.pop("names", None) or [entry["name"]]  # one entry a weight before version 0.1
            weights += [{"name": str(name), **entry} for name in names]
        return {**report, "weights": weights}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}
