"""What a comparison of two models found, as data. Imports nothing heavy."""

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import Any, Literal

import attrs

Kind = Literal["array", "image", "scores", "probabilities", "label"]
Limits = float | Mapping[str, float]
EVERY = "*"
_SHARE = ", which is a share, 0 to 1"
NOTES = {
    "reference": (
        "by milpasses' interpreter: a float32 reference that rounds each result to its declared type, "
        "not an emulation of Core ML"
    ),
    "coreml": "by Core ML on this machine",
}
_COLUMNS = (
    "kind", "name", "type", "snr_db", "psnr_db", "max_error", "mean_error", "cosine", "agreement",
    "top_k_agreement", "input_snr_db", "own_snr_db", "count", "accuracy_a", "accuracy_b", "top_k_accuracy_a",
    "top_k_accuracy_b", "other_name", "matched",
)  # fmt: skip


@attrs.frozen
class OutputError:
    """How far one output of the second model is from the first's, over all samples.

    ``snr_db`` is 10 log10(sum a^2 / sum (a - b)^2), infinite where nothing differs and minus infinity where
    one is finite and the other is not; ``psnr_db`` has max a^2 times the count above the line (255^2 for
    images). ``cosine`` is that of all values as one vector. ``agreement``: share of rows in which both rank
    the same class first; ``top_k_agreement``: the first model's first class is among the second's k first.
    A label has an agreement alone.
    """

    name: str
    kind: Kind
    snr_db: float | None = None
    psnr_db: float | None = None
    max_error: float | None = None
    mean_error: float | None = None
    cosine: float | None = None
    agreement: float | None = None
    top_k_agreement: float | None = None


@attrs.frozen
class ClassAccuracy:
    """One class: how many samples have its label, and the share ranked first, or among the k first."""

    label: str | int
    count: int
    top1: float
    top_k: float


@attrs.frozen
class Accuracy:
    """Share of the labelled samples that a model gets right, in all and for each class, in class order."""

    count: int
    top1: float
    top_k: float
    k: int
    classes: tuple[ClassAccuracy, ...]
    data: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        return attrs.asdict(self)


@attrs.frozen
class NonFinite:
    """The first NaN, or the first infinity, that a model made: in which sample, by which op."""

    model: Literal["a", "b"]
    value: Literal["nan", "inf"]
    sample: str
    output: str
    op: str = ""
    op_type: str = ""

    def __str__(self) -> str:
        made_by = f" of {self.op_type} {self.op}" if self.op else ""
        return f"model {self.model}: first {self.value} in {self.output}{made_by}, sample {self.sample}"


@attrs.frozen
class OpError:
    """The error of one op's output in the second model.

    ``snr_db``: against the first model's, with all that came before. ``input_snr_db``: the worst of its
    inputs. ``own_snr_db``: what the op adds by itself, with its own weights and types on the first model's
    inputs; infinite where op and weights are the same, None where an op cannot run alone (blocks, states,
    random numbers). ``matched``: by ``name``, or by ``structure``: same type and shapes, inputs that match.
    """

    op: str
    other_op: str
    op_type: str
    output: str
    matched: Literal["name", "structure"]
    snr_db: float
    max_error: float
    input_snr_db: float | None = None
    own_snr_db: float | None = None


@attrs.frozen
class BoxError:
    """How far the boxes that a non-maximum suppression keeps of the second model are from the first's.

    Boxes of both are pairs by their overlap, intersection over union (IoU) of 0.5 or more, the largest first.
    ``boxes_a``, ``boxes_b``: how many each keeps over all samples; ``matched``: pairs. The rest is of pairs,
    NaN where there is none: the largest difference of a coordinate or a size, in ``unit`` (coordinates that
    are shares of the image count as pixels of it); IoU; the largest difference of a class's confidence.
    """

    name: str
    unit: str
    boxes_a: int
    boxes_b: int
    matched: int
    worst_error: float
    mean_error: float
    worst_iou: float
    mean_iou: float
    worst_confidence_error: float
    mean_confidence_error: float

    @property
    def unmatched_a(self) -> int:
        """Boxes that only the first model keeps."""
        return self.boxes_a - self.matched

    @property
    def unmatched_b(self) -> int:
        """Boxes that only the second model keeps."""
        return self.boxes_b - self.matched

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        return {**attrs.asdict(self), "unmatched_a": self.unmatched_a, "unmatched_b": self.unmatched_b}


@attrs.frozen
class Miss:
    """A limit that an output does not keep."""

    output: str
    measure: str
    value: float
    limit: float

    def __str__(self) -> str:
        sign = ">" if self.measure == "max_error" else "<"
        return f"{self.output}: {self.measure} {self.value:.6g} {sign} {self.limit:.6g}"


def decibels_text(snr_db: float | None) -> str:
    """``30.1 dB``, ``exact``; ``unknown`` where nothing finite was compared."""
    if snr_db is None or math.isnan(snr_db):
        return "unknown"
    return "exact" if snr_db == math.inf else f"{snr_db:.1f} dB"


@attrs.frozen
class Comparison:
    """What ``compare`` found.

    ``ops`` is empty unless asked for; ``unmatched_a`` and ``unmatched_b`` are then the ops without a partner.
    ``boxes``: of a pipeline with non-maximum suppression, what that keeps. ``random``: the data was random.
    ``note`` says who computed the figures.
    """

    a: str
    b: str
    data: str
    samples: int
    random: bool
    note: str
    k: int
    outputs: tuple[OutputError, ...]
    accuracy_a: Accuracy | None = None
    accuracy_b: Accuracy | None = None
    nonfinite: tuple[NonFinite, ...] = ()
    ops: tuple[OpError, ...] = ()
    unmatched_a: tuple[str, ...] = ()
    unmatched_b: tuple[str, ...] = ()
    boxes: tuple[BoxError, ...] = ()

    def __repr__(self) -> str:
        errors = ", ".join(f"{one.name} {decibels_text(one.snr_db)}" for one in self.outputs)
        return f"<Comparison: {self.b} with {self.a}, {self.samples:,} samples of {self.data}: {errors}>"

    def _repr_html_(self) -> str:
        from milpasses.report import html_table

        rows = [
            (
                one.name, decibels_text(one.snr_db),
                "" if one.max_error is None else f"{one.max_error:.3g}",
                "" if one.agreement is None else f"{one.agreement:.2%}",
            )
            for one in self.outputs
        ]  # fmt: skip
        caption = f"{self.b} with {self.a}: {self.samples:,} samples of {self.data}"
        return html_table(("output", "SNR", "largest error", "same class"), rows, caption)

    def __getitem__(self, name: str) -> OutputError:
        for output in self.outputs:
            if output.name == name:
                return output
        raise KeyError(f"no output {name!r}; there are {', '.join(output.name for output in self.outputs)}")

    def worst_ops(self) -> tuple[OpError, ...]:
        """The ops, those that add most error by themselves first; those of which that is not known last."""

        def order(op: OpError) -> tuple[bool, float, float]:
            own, snr = op.own_snr_db, op.snr_db
            unknown = own is None or math.isnan(own)
            return unknown, 0.0 if own is None or unknown else own, math.inf if math.isnan(snr) else snr

        return tuple(sorted(self.ops, key=order))

    def misses(
        self,
        min_snr: Limits | None = None,
        max_error: Limits | None = None,
        min_agreement: Limits | None = None,
    ) -> tuple[Miss, ...]:
        """The limits that are not kept; each is one number for every output, or numbers by output name.

        ``min_snr`` in dB, ``max_error`` absolute, ``min_agreement`` a share (0..1) of rows with the same
        class first. In a mapping ``"*"`` stands for all outputs that it does not name. Raises
        ``MilpassesError`` for a limit that no output can be measured by.
        """
        wanted = (
            ("snr_db", min_snr),
            ("max_error", max_error),
            ("agreement", min_agreement),
        )
        return tuple(
            miss for measure, limits in wanted if limits is not None for miss in self._missed(measure, limits)
        )

    def _missed(self, measure: str, limits: Limits) -> list[Miss]:
        from milpasses.errors import MilpassesError

        by_name = dict(limits) if isinstance(limits, Mapping) else {EVERY: limits}
        values: dict[str, float] = {
            output.name: value for output in self.outputs if (value := getattr(output, measure)) is not None
        }
        unknown = [name for name in by_name if name != EVERY and name not in values]
        if unknown or not values:
            which = f"no output {', '.join(unknown)}" if unknown else "no output"
            raise MilpassesError(f"{which} that has a {measure}; there are {', '.join(values) or 'none'}")
        for limit in by_name.values():
            if math.isnan(limit) or (measure == "agreement" and not 0 <= limit <= 1):
                raise MilpassesError(
                    f"{limit:g} is no limit for {measure}" + _SHARE * (measure == "agreement")
                )
        missed: list[Miss] = []
        for name, value in values.items():
            limit = by_name.get(name, by_name.get(EVERY))
            if limit is None:
                continue
            kept = value <= limit if measure == "max_error" else value >= limit  # NaN keeps no limit
            if not kept:
                missed.append(Miss(name, measure, value, limit))
        return missed

    def rows(self) -> list[dict[str, Any]]:
        """Flat dictionaries of the same keys: a row for each output, class, op or set of boxes (``kind``)."""
        rows = [{**attrs.asdict(output), "kind": "output", "type": output.kind} for output in self.outputs]
        if self.accuracy_a is not None and self.accuracy_b is not None:
            pairs = zip(self.accuracy_a.classes, self.accuracy_b.classes, strict=True)
            totals = [("accuracy", "all", self.accuracy_a, self.accuracy_b)]
            for kind, name, a, b in [*totals, *(("class", x.label, x, y) for x, y in pairs)]:
                rows.append(
                    {
                        "kind": kind,
                        "name": name,
                        "count": a.count,
                        "accuracy_a": a.top1,
                        "accuracy_b": b.top1,
                        "top_k_accuracy_a": a.top_k,
                        "top_k_accuracy_b": b.top_k,
                    }
                )
        rows += [
            {**attrs.asdict(op), "kind": "op", "name": op.op, "type": op.op_type, "other_name": op.other_op}
            for op in self.ops
        ]
        rows += [
            {
                "kind": "boxes",
                "name": one.name,
                "type": one.unit,
                "max_error": one.worst_error,
                "mean_error": one.mean_error,
                "count": one.matched,
            }
            for one in self.boxes
        ]
        return [{column: row.get(column) for column in _COLUMNS} for row in rows]

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON, which has no infinity: ``"inf"``, ``"-inf"``, ``"nan"``."""
        return _plain({**attrs.asdict(self), "boxes": [one.to_dict() for one in self.boxes]})

    def to_json(self, indent: int | None = None) -> str:
        """``to_dict`` as text."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    def to_csv(self) -> str:
        """``rows`` as CSV with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows(row.values() for row in self.rows())
        return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
