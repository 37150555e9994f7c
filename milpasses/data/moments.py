"""Sums over what the interpreter saw: moments of weights' inputs, ranges of activations; and their file."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from milpasses_kernels._threads import one_blas_thread
from numpy.typing import NDArray

from milpasses.data.histograms import Histogram, joined
from milpasses.data.npz import read_npz
from milpasses.errors import MilpassesError, Refusal, SampleError
from milpasses.program.files import whole_file
from milpasses.program.flows import Flow

Array = NDArray[np.float64]
Matmul = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]
_VERSION = 2
_WIDE = 2048  # columns: adding X^T X up takes longer than a sample's product, so that rows wait for others
_STATED = 1  # the version whose reasons are texts


@attrs.define(eq=False)
class Moments:
    """The rows X that meet a weight, summed up in float64, for each group of input channels.

    The width K of a row counts the input channels of one group, times the kernel's taps for a convolution
    (whose rows are its im2col patches, padding zeros included), in the weight's own order: a conv's
    ``weight.reshape(groups, -1, K)`` meets them, a linear's ``weight[None]``. A conv_transpose's rows are
    its input positions, and its taps are not told apart.

    ``axis``: the weight's axis of these channels. ``rows``: how many rows each group has seen. ``sum`` and
    ``square_sum`` [groups, K]: of the columns of X, so that ``square_sum`` is the diagonal of X^T X.
    ``gram`` [groups, K, K]: all of X^T X, if it was asked for. ``used_by``: the ops, ``type name``.
    """

    axis: int
    taps: int
    rows: int
    sum: Array
    square_sum: Array
    _gram: Array | None = attrs.field(default=None, alias="gram")
    used_by: tuple[str, ...] = ()
    _waiting: list[NDArray[np.float32]] = attrs.field(factory=list, init=False)

    @property
    def gram(self) -> Array | None:
        """X^T X, of all rows so far."""
        if self._waiting and self._gram is not None:
            with one_blas_thread():
                rows = np.concatenate(self._waiting, axis=1)
                self._gram += np.matmul(rows.transpose(0, 2, 1), rows)
            self._waiting.clear()
        return self._gram

    @property
    def layout(self) -> tuple[int, int, int, int]:
        """Groups, width, axis and taps: those of the flows that add to it."""
        groups, width = self.sum.shape
        return groups, width, self.axis, self.taps

    @classmethod
    def empty(cls, flow: Flow, full: bool, used_by: str) -> "Moments":
        """No rows yet, for rows as those of ``flow``."""
        shape = (flow.groups, flow.width)
        gram = np.zeros((*shape, flow.width)) if full else None
        return cls(flow.axis, flow.taps, 0, np.zeros(shape), np.zeros(shape), gram, (used_by,))

    def add(self, flow: Flow, sampled: bool = False, matmul: Matmul = np.matmul) -> None:
        """Add the rows of ``flow``; ``sampled``: of a block not more than tell something new, in float32.

        ``matmul``: that of what runs the model: two libraries' threads that take turns hold each other up.
        """
        for block in flow.blocks:
            if sampled:
                block = _sample(block)
            self.rows += block.shape[1]
            self.sum += block.sum(axis=1)
            self.square_sum += np.einsum("grk,grk->gk", block, block)
            if self._gram is None:
                continue
            if not sampled or block.shape[2] <= _WIDE:
                self._gram += matmul(block.transpose(0, 2, 1), block)
                continue
            self._waiting.append(block.copy())
            if sum(part.shape[1] for part in self._waiting) >= block.shape[2] // 4:
                _ = self.gram

    @property
    def mean(self) -> Array:
        """Mean of each column, [groups, K]."""
        return self.sum / self.rows

    @property
    def second_moment(self) -> Array:
        """E[x^2] of each column, [groups, K]."""
        return self.square_sum / self.rows

    @property
    def channel_mean(self) -> Array:
        """Mean of each input channel over all groups, [channels]: of its taps, the padding included."""
        return self.mean.reshape(-1, self.taps).mean(axis=1)

    @property
    def channel_second_moment(self) -> Array:
        """E[x^2] of each input channel over all groups, [channels]: mean over its taps."""
        return self.second_moment.reshape(-1, self.taps).mean(axis=1)

    def fits(self, other: "Moments") -> bool:
        """Both are of rows of the same kind, so that they may be added."""
        return self.layout == other.layout and (self.gram is None) == (other.gram is None)

    def __add__(self, other: "Moments") -> "Moments":
        gram = None if self.gram is None or other.gram is None else self.gram + other.gram
        return Moments(
            self.axis,
            self.taps,
            self.rows + other.rows,
            self.sum + other.sum,
            self.square_sum + other.square_sum,
            gram,
            tuple(dict.fromkeys((*self.used_by, *other.used_by))),
        )


@attrs.frozen
class Range:
    """Smallest and largest finite value of an activation; ``nonfinite`` counts NaN and infinities."""

    min: float
    max: float
    nonfinite: int = 0

    def __or__(self, other: "Range") -> "Range":
        return Range(min(self.min, other.min), max(self.max, other.max), self.nonfinite + other.nonfinite)


@attrs.define(eq=False)
class Statistics:
    """What flows into the weights of a model, by the weights' names as in reports (``Site.weight.name``).

    ``weights``: what each weight met; ``held_out``: what it met in the samples kept apart to check with.
    ``lookups``: for a table that gather reads, how often each slice was read (int64);
    ``lookup_axes``: along which axis of the table the slices are, 0 where it is not said.
    ``ranges``: of every activation, by variable name. ``histograms``: of those that are floats, 16 KB each,
    and ``held_out_histograms``, of the samples kept apart. ``skipped``: the weights of two or more dimensions
    of which nothing is known, and why: ``str()`` of a ``Refusal`` gives the words. ``samples``: runs.
    ``data`` says what was run, ``random`` that it means nothing.
    """

    weights: dict[str, Moments] = attrs.field(factory=dict)
    lookups: dict[str, NDArray[np.int64]] = attrs.field(factory=dict)
    ranges: dict[str, Range] = attrs.field(factory=dict)
    skipped: dict[str, Refusal] = attrs.field(factory=dict)
    samples: int = 0
    data: str = ""
    random: bool = False
    held_out: dict[str, Moments] = attrs.field(factory=dict)
    lookup_axes: dict[str, int] = attrs.field(factory=dict)
    histograms: dict[str, Histogram] = attrs.field(factory=dict)
    held_out_histograms: dict[str, Histogram] = attrs.field(factory=dict)

    def __getitem__(self, name: str) -> Moments:
        if name in self.weights:
            return self.weights[name]
        if name in self.lookups:
            raise KeyError(f"{name} is a table that gather reads: see .lookups")
        raise KeyError(f"no statistics of {name}: {self.skipped.get(name, 'the model has no such weight')}")

    def __contains__(self, name: object) -> bool:
        return name in self.weights

    def __iter__(self) -> Iterator[str]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def counted(self) -> dict[str, Histogram]:
        """The histograms of all samples, those kept apart among them."""
        return joined(self.histograms, self.held_out_histograms)

    def merge(self, other: "Statistics") -> "Statistics":
        """The statistics of both runs together; raises ``MilpassesError`` if the models differ."""
        weights = _added(self.weights, other.weights)
        held_out = _added(self.held_out, other.held_out)
        for name in self.lookups.keys() & other.lookups.keys():
            alike = self.lookups[name].shape == other.lookups[name].shape
            if not alike or self.lookup_axes.get(name, 0) != other.lookup_axes.get(name, 0):
                raise MilpassesError(f"{name}: these statistics come from different models")
        tables = {**self.lookups, **other.lookups}
        axes = {**self.lookup_axes, **other.lookup_axes}
        ranges = {**self.ranges, **other.ranges}
        tables |= {n: self.lookups[n] + other.lookups[n] for n in self.lookups.keys() & other.lookups}
        ranges |= {n: self.ranges[n] | other.ranges[n] for n in self.ranges.keys() & other.ranges}
        skipped = {
            n: why for n, why in {**self.skipped, **other.skipped}.items() if n not in weights | tables
        }
        data = self.data if self.data == other.data else f"{self.data}; {other.data}"
        samples = self.samples + other.samples
        random = self.random or other.random
        return Statistics(
            weights, tables, ranges, skipped, samples, data, random, held_out, axes,
            joined(self.histograms, other.histograms),
            joined(self.held_out_histograms, other.held_out_histograms),
        )  # fmt: skip

    def save(self, path: "str | os.PathLike[str]") -> None:
        """Write an ``.npz`` file, without pickles, all of it or nothing."""
        arrays: dict[str, Any] = {}
        entries: list[dict[str, Any]] = []
        named = [(name, moments, False) for name, moments in self.weights.items()]
        named += [(name, moments, True) for name, moments in self.held_out.items()]
        for index, (name, moments, held) in enumerate(named):
            fields = {
                "axis": moments.axis, "taps": moments.taps, "rows": moments.rows, "used_by": moments.used_by,
            }  # fmt: skip
            entries.append({"name": name, **fields} | ({"held_out": True} if held else {}))
            parts = {"sum": moments.sum, "square_sum": moments.square_sum, "gram": moments.gram}
            arrays.update({f"{index}.{key}": part for key, part in parts.items() if part is not None})
        arrays.update({f"lookups.{index}": counts for index, counts in enumerate(self.lookups.values())})
        histograms = [*self.histograms.items(), *self.held_out_histograms.items()]
        for index, (_, histogram) in enumerate(histograms):
            smallest = np.min_scalar_type(int(histogram.counts.max()))
            arrays[f"histograms.{index}"] = histogram.counts.astype(smallest)
        about = {
            "milpasses_statistics": _VERSION,
            "weights": entries,
            "lookups": list(self.lookups),
            "lookup_axes": self.lookup_axes,
            "ranges": {name: attrs.astuple(span) for name, span in self.ranges.items()},
            "histograms": [{"name": name, **histogram.fields} for name, histogram in histograms],
            "histograms_held_out": len(self.held_out_histograms),
            "skipped": {
                name: {"code": why.code, "details": dict(why.details)} for name, why in self.skipped.items()
            },
            "samples": self.samples,
            "data": self.data,
            "random": self.random,
        }
        with whole_file(Path(path), force=True) as file:
            np.savez(file, about=np.array(json.dumps(about)), **arrays)

    @classmethod
    def load(cls, path: "str | os.PathLike[str]") -> "Statistics":
        """Read what ``save`` wrote; raises ``MilpassesError`` if it is something else, or damaged."""
        try:
            arrays = read_npz(path)
        except SampleError as error:
            if not Path(path).exists():
                raise MilpassesError(str(error)) from None
            raise MilpassesError(f"{path}: not statistics, or damaged: {error}") from error
        try:
            about = json.loads(str(arrays["about"]))
            version = about["milpasses_statistics"]
            if version not in (_STATED, _VERSION):
                raise MilpassesError(
                    f"{path}: statistics of version {version}; this milpasses reads versions {_STATED} and "
                    f"{_VERSION}: compute them again"
                )
            return cls._from(about, arrays)
        except MilpassesError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
            problem = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise MilpassesError(f"{path}: not statistics, or damaged ({problem[:200]})") from error

    @classmethod
    def _from(cls, about: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> "Statistics":
        parts: tuple[dict[str, Moments], dict[str, Moments]] = ({}, {})
        for index, entry in enumerate(about["weights"]):
            parts[entry.get("held_out", False)][entry["name"]] = Moments(
                entry["axis"],
                entry["taps"],
                entry["rows"],
                arrays[f"{index}.sum"],
                arrays[f"{index}.square_sum"],
                arrays.get(f"{index}.gram"),
                tuple(entry["used_by"]),
            )
        tables = {name: arrays[f"lookups.{index}"] for index, name in enumerate(about["lookups"])}
        ranges = {name: Range(*span) for name, span in about["ranges"].items()}
        weights, held_out = parts
        skipped = {name: _read_refusal(why) for name, why in about["skipped"].items()}
        run = about["samples"], about["data"], about["random"]
        axes = {name: int(axis) for name, axis in about.get("lookup_axes", {}).items()}
        histograms = [
            (fields["name"], Histogram.of(fields, arrays[f"histograms.{index}"]))
            for index, fields in enumerate(about.get("histograms", ()))
        ]
        fitted = len(histograms) - about.get("histograms_held_out", 0)
        counted = dict(histograms[:fitted]), dict(histograms[fitted:])
        return cls(weights, tables, ranges, skipped, *run, held_out, axes, *counted)


def _read_refusal(written: Any) -> Refusal:
    """A reason as a file has it: code and details, or the text of an older version."""
    if isinstance(written, str):
        return Refusal("stated", text=written)
    return Refusal(written["code"], **written["details"])


def _sample(block: NDArray[Any]) -> NDArray[Any]:
    """Half as many rows of a block as it has columns, or 256, drawn at random: some samples span them all."""
    rows, most = block.shape[1], max(256, block.shape[2] // 2)
    if rows > most:
        block = block[:, np.sort(np.random.default_rng(rows).choice(rows, most, replace=False))]
    return np.ascontiguousarray(block, np.float32)


def _added(first: dict[str, Moments], second: dict[str, Moments]) -> dict[str, Moments]:
    for name in first.keys() & second.keys():
        if not first[name].fits(second[name]):
            raise MilpassesError(
                f"{name}: these statistics do not add up: they come from different models, or only "
                "one of them is full"
            )
    both = {name: first[name] + second[name] for name in first.keys() & second.keys()}
    return {**first, **second, **both}
