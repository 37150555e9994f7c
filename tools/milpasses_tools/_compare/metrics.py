"""Errors, agreement and accuracy, summed up one sample at a time."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.data.samples import Label, Sample
from milpasses.errors import MilpassesError
from milpasses.report import decibels
from milpasses_tools._compare.comparison import Accuracy, ClassAccuracy, Kind, OutputError

Array = NDArray[Any]
_CHUNK = 1 << 16  # values at a time, so that their float64 copies stay in cache
_MOST_CLASSES_LISTED = 8
_SUM_TOLERANCE = 0.01  # of probabilities in float16, a thousand of them


@attrs.define
class ErrorSums:
    """Sums in float64 over the values of a reference a and of b.

    Values that are not finite count only where a and b differ in them: then the noise is infinite. Where
    no value at all was finite in both, nothing is known: every figure is NaN, which keeps no limit.
    """

    count: int = 0
    finite: int = 0
    signal: float = 0.0
    other: float = 0.0
    noise: float = 0.0
    dot: float = 0.0
    absolute: float = 0.0
    largest: float = 0.0
    peak: float = 0.0

    def add(self, a: Array, b: Array) -> None:
        """Add the values of two arrays of the same shape."""
        flat_a, flat_b = np.reshape(a, -1), np.reshape(b, -1)
        self.count += flat_a.size
        for at in range(0, flat_a.size, _CHUNK):
            x = flat_a[at : at + _CHUNK].astype(np.float64)
            y = flat_b[at : at + _CHUNK].astype(np.float64)
            if not (np.isfinite(x).all() and np.isfinite(y).all()):
                finite = np.isfinite(x) & np.isfinite(y)
                if not (finite | (x == y) | (np.isnan(x) & np.isnan(y))).all():
                    self.noise = self.absolute = self.largest = math.inf
                x, y = x[finite], y[finite]
                if not x.size:
                    continue
            self.finite += x.size
            difference = np.abs(x - y)
            # Not BLAS: its threads and those of torch get in each other's way on vectors as short as these.
            self.signal += float(np.einsum("i,i", x, x))
            self.other += float(np.einsum("i,i", y, y))
            self.dot += float(np.einsum("i,i", x, y))
            self.noise += float(np.einsum("i,i", difference, difference))
            self.absolute += float(difference.sum())
            self.largest = max(self.largest, float(difference.max()))
            self.peak = max(self.peak, float(np.abs(x).max()))

    @property
    def snr_db(self) -> float:
        """10 log10(sum a^2 / sum (a - b)^2)."""
        return self._known(decibels(self.signal, self.noise))

    def psnr_db(self, peak: float | None = None) -> float:
        """10 log10(peak^2 count / sum (a - b)^2); the peak is max |a| unless given."""
        peak = self.peak if peak is None else peak
        return self._known(decibels(peak * peak * self.count, self.noise))

    @property
    def max_error(self) -> float:
        """Largest |a - b|."""
        return self._known(self.largest)

    @property
    def mean_error(self) -> float:
        """Mean |a - b|."""
        return self._known(self.absolute / max(self.count, 1))

    @property
    def cosine(self) -> float:
        """Cosine of the angle between all of a and all of b; 1 where both are zero."""
        if not (self.finite and math.isfinite(self.noise)):
            return math.nan
        if self.signal == 0 or self.other == 0:
            return float(self.signal == self.other)
        return self.dot / math.sqrt(self.signal) / math.sqrt(self.other)

    def _known(self, figure: float) -> float:
        return figure if self.finite or self.noise else math.nan


def rank(scores: Array, index: Array) -> Array:
    """How many classes have a higher score than class ``index[row]``; past the last where a score is NaN."""
    own = np.take_along_axis(scores, index[:, None], axis=1)
    higher = (scores > own).sum(axis=1)
    return np.where(np.isnan(scores).any(axis=1), scores.shape[1], higher)


def probabilities(scores: Array) -> Array:
    """Class scores [rows, classes] as probabilities: a row of them stays, else its softmax; 0 for NaN."""
    rows = np.asarray(scores, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        raised = np.exp(rows - rows.max(axis=1, keepdims=True))
        softmax = raised / raised.sum(axis=1, keepdims=True)
    known = (rows >= 0).all(axis=1) & (np.abs(rows.sum(axis=1) - 1) < _SUM_TOLERANCE)
    return np.nan_to_num(np.where(known[:, None], rows, softmax), nan=0.0)


@attrs.define
class Agreement:
    """Rows in which b ranks a's first class first, or among its k first. NaN agrees with nothing."""

    k: int
    rows: int = 0
    first: int = 0
    among: int = 0

    def add(self, a: Array, b: Array) -> None:
        """Add scores [rows, classes] of both models."""
        best = a.argmax(axis=1)
        known = ~(np.isnan(a).any(axis=1) | np.isnan(b).any(axis=1))
        self.rows += len(a)
        self.first += int((known & (best == b.argmax(axis=1))).sum())
        self.among += int((known & (rank(b, best) < self.k)).sum())


def kind_of(name: str, value: Any, outputs: Mapping[str, Any], scores: str | None) -> Kind:
    """What an output is, by its value; ``scores`` names one that holds class scores along its last axis."""
    if isinstance(value, Mapping):
        return "probabilities"
    classifier = any(isinstance(other, Mapping) for other in outputs.values())
    array = np.asarray(value)
    if array.dtype.kind in "US" or (classifier and array.ndim == 0 and array.dtype.kind in "iu"):
        return "label"
    if name == scores:
        return "scores"
    if array.dtype == np.uint8 and array.ndim in (2, 3):
        return "image"
    looks_like_scores = array.dtype.kind == "f" and array.ndim in (1, 2) and array.shape[-1] >= 2
    return "scores" if looks_like_scores else "array"


def primary_output(kinds: Mapping[str, Kind], scores: str | None) -> str | None:
    """The output whose first class is compared: ``scores``, else the first that holds classes, if any."""
    if scores in kinds:
        return scores
    order: tuple[Kind, ...] = ("probabilities", "scores", "label")
    named = [name for kind in order for name, found in kinds.items() if found == kind]
    return named[0] if named else None


def score_rows(value: Any) -> tuple[Array, list[Label] | None]:
    """Scores [rows, classes] of an output, and the classes' names where it has them."""
    if isinstance(value, Mapping):
        named = cast("Mapping[Label, float]", value)
        return np.array([list(named.values())], np.float64), list(named)
    array = np.asarray(value)
    return array.reshape(-1, array.shape[-1]), None


@attrs.define
class OutputSums:
    """Everything that is summed up of one output of both models."""

    name: str
    kind: Kind
    k: int
    errors: ErrorSums = attrs.field(factory=ErrorSums)
    agreement: Agreement = attrs.field(default=attrs.Factory(lambda self: Agreement(self.k), takes_self=True))

    def add(self, a: Any, b: Any) -> None:
        """Add one sample's values; raises ``MilpassesError`` if they are of different shapes or classes."""
        if self.kind == "label":
            self.agreement.rows += 1
            self.agreement.first += int(str(a) == str(b))
            return
        if isinstance(a, Mapping):
            classes = list(cast("Mapping[Label, float]", a))
            if not isinstance(b, Mapping) or set(cast("Mapping[Label, float]", b)) != set(classes):
                raise MilpassesError(f"output {self.name}: the models know different classes")
            b = {label: b[label] for label in classes}  # pyright: ignore[reportUnknownVariableType]
        if self.kind in ("scores", "probabilities"):
            a, b = score_rows(a)[0], score_rows(b)[0]
        a, b = np.asarray(a), np.asarray(b)
        if a.shape != b.shape:
            raise MilpassesError(
                f"output {self.name}: of shape {a.shape} in one model, {b.shape} in the other"
            )
        self.errors.add(a, b)
        if self.kind in ("scores", "probabilities"):
            self.agreement.add(a, b)

    def result(self) -> OutputError:
        """The figures over all samples."""
        rows, errors = self.agreement.rows, self.errors
        agreement = self.agreement.first / rows if rows else None
        if self.kind == "label":
            return OutputError(self.name, self.kind, agreement=agreement)
        return OutputError(
            self.name,
            self.kind,
            errors.snr_db,
            errors.psnr_db(255.0 if self.kind == "image" else None),
            errors.max_error,
            errors.mean_error,
            errors.cosine,
            agreement,
            self.agreement.among / rows if rows else None,
        )


class AccuracySums:
    """Counts what a model gets right, by class. ``scores`` names the output; without, the only candidate."""

    def __init__(self, scores: str | None, k: int) -> None:
        self._scores, self._k = scores, k
        self._counts: dict[tuple[int, Label], NDArray[np.int64]] = {}  # [samples, first, among the k first]
        self._own: list[float] = []

    def add(self, outputs: Mapping[str, Any], sample: Sample) -> None:
        """Count one sample, if it has a label and the model scores; raises ``MilpassesError``."""
        name = self._output(outputs) if sample.label is not None else None
        if name is None:
            return
        rows, classes = score_rows(outputs[name])
        labels = sample.label if isinstance(sample.label, tuple) else (sample.label,)
        if len(labels) != len(rows):
            raise MilpassesError(f"{sample.name}: {len(labels)} labels for {len(rows)} rows of output {name}")
        indices = [_class_index(label, classes, rows.shape[1], sample.name) for label in labels]
        ranks = rank(rows, np.array(indices))
        self._own += np.take_along_axis(probabilities(rows), np.array(indices)[:, None], axis=1)[
            :, 0
        ].tolist()
        # Of equal scores the first class wins, as argmax has it.
        first = (rows.argmax(axis=1) == indices) & ~np.isnan(rows).any(axis=1)
        for row, index in enumerate(indices):
            key = (index, index if classes is None else classes[index])
            counted = self._counts.setdefault(key, np.zeros(3, np.int64))
            counted += (1, int(first[row]), int(ranks[row] < self._k))

    @property
    def own_class(self) -> float | None:
        """Mean probability of the class that is right; None if no sample had a label to count."""
        return math.fsum(self._own) / len(self._own) if self._own else None

    def _output(self, outputs: Mapping[str, Any]) -> str | None:
        kinds = {name: kind_of(name, value, outputs, self._scores) for name, value in outputs.items()}
        for kind in ("probabilities", "scores"):
            names = [name for name, found in kinds.items() if found == kind]
            if self._scores in names:
                return self._scores
            if len(names) > 1:
                raise MilpassesError(
                    f"outputs {', '.join(names)} could all be class scores: name one with scores="
                )
            if names:
                return names[0]
        return None

    def result(self, data: str, note: str) -> Accuracy | None:
        """The shares; None if no sample had a label that could be counted."""
        if not self._counts:
            return None
        ordered = sorted(self._counts.items(), key=lambda item: item[0][0])
        classes = [
            ClassAccuracy(label, int(n), float(first / n), float(among / n))
            for (_, label), (n, first, among) in ordered
        ]
        count, first, among = np.sum(list(self._counts.values()), axis=0).tolist()
        return Accuracy(count, first / count, among / count, self._k, tuple(classes), data, note)


def _class_index(label: Label | None, classes: Sequence[Label] | None, count: int, where: str) -> int:
    """The column of the class that ``label`` names; where there is none, by index.

    A name that no class has is looked for as folders are spelled: ``hot_dog`` for ``hot dog``.
    """
    text = str(label)
    if classes is not None:
        names = [str(known) for known in classes]
        if text in names:
            return names.index(text)
        alike = [index for index, name in enumerate(names) if _spelled(name) == _spelled(text)]
        if len(alike) == 1:
            return alike[0]
        if isinstance(label, int) and 0 <= label < count and all(isinstance(one, str) for one in classes):
            return label
        listed = ", ".join(names[:_MOST_CLASSES_LISTED])
        more = f", ... ({count} in all)" if count > _MOST_CLASSES_LISTED else ""
        raise MilpassesError(f"{where}: the model knows no class {text!r}; it knows {listed}{more}")
    if not text.isdecimal() or int(text) >= count:
        raise MilpassesError(
            f"{where}: label {text!r} is no index of a class, 0 to {count - 1}: the model does not name its "
            "classes, so labels (or class folders) must be indices"
        )
    return int(text)


def _spelled(name: str) -> str:
    """A name without what differs between labels and folder names: case, spaces, underscores, hyphens."""
    return name.casefold().replace("_", " ").replace("-", " ")
