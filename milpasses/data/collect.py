"""What flows into each weight: second moments, means, and the range of every activation."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from milpasses.data.moments import Moments, Range, Statistics
from milpasses.data.norms import NORMS, is_norms, norm_statistics
from milpasses.data.observers import RangeObserver
from milpasses.data.samples import Samples
from milpasses.encoding.lowering import base_name
from milpasses.encoding.storage import SMALLEST_IN_FILE
from milpasses.errors import MilpassesError, Refusal
from milpasses.interpreter import Interpreter, Precision
from milpasses.interpreter.io import numpy_type
from milpasses.interpreter.program import load
from milpasses.program.flows import OpCall
from milpasses.program.opening import open_program
from milpasses.program.weight_uses import flow_of, reads_of, weight_use
from milpasses.program.weights import is_constant

__all__ = ["Moments", "Range", "Statistics", "statistics"]
_FLOATS = (np.float16, np.float32)


def statistics(
    model: Any,
    data: Any,
    *,
    full: "bool | Collection[str]" = False,
    held_out: int = 0,
    limit: int | None = None,
    seed: int = 0,
    function: str | None = None,
    precision: Precision = "declared",
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Statistics:
    """Run a model on data and sum up what flows into each of its weights.

    One pass, one sample at a time; nothing is kept but the sums. Covered are the weights of linear, matmul
    (either side), conv, conv_transpose, and the input weights of lstm, gru and rnn; of gather's tables the
    reads are counted. Constants of two or more dimensions that are used otherwise are listed in ``skipped``,
    with the reason.

    Args:
        model: path of an ``.mlpackage``, ``MLModel``, ``Program``, or an ``Interpreter`` made by the caller.
            What runs is a reference, not an emulation of Core ML.
        data: whatever ``Samples.of`` takes; or ``"norms"``: nothing runs, and of the weights behind a
            normalization its scale and offset tell how large each input channel is.
        full: keep all of X^T X, not its diagonal alone: 8 width^2 bytes for each group of a weight, where a
            conv's width counts its taps; or the names of the weights to keep it for.
        held_out: keep every so many-th sample (the second, then at this distance) apart, in ``held_out``:
            what calibration fits it then checks on these. 0 keeps none apart.
        limit, seed, function: as in ``Samples.of``.
        precision: ``Interpreter``'s.
        progress: called after each sample with (done, total or None, sample's name).

    Raises:
        MilpassesError: data that does not fit, names in ``full`` that the model lacks, or an input of a
            weight that is not finite.
    """
    if held_out < 0 or held_out == 1:
        raise MilpassesError(f"held_out= must be 0, or 2 or more (every so many-th sample), not {held_out}")
    names = _names(model, function)
    if is_norms(data):
        loaded = model if isinstance(model, Interpreter) else load(model, function)
        return without_data(loaded.function, names)
    interpreter = model if isinstance(model, Interpreter) else Interpreter(model, function, precision)
    return collect(
        interpreter, data, names,
        full=full, histograms=True, held_out=held_out, limit=limit, seed=seed, progress=progress,
    )  # fmt: skip


def without_data(function: Any, names: Mapping[str, str]) -> Statistics:
    """Statistics of ``"norms"``, of a function in memory; ``names`` of weights by variable."""
    statistics = norm_statistics(
        function, lambda var: names.get(var.name) or base_name(var.op.name) if _is_weight(var) else None
    )
    if not statistics.weights:
        raise MilpassesError(
            f"{NORMS!r}: no weight of this model stands behind a normalization: run it on data instead"
        )
    return statistics


def collect(
    interpreter: Interpreter,
    data: Any,
    names: Mapping[str, str],
    *,
    full: "bool | Collection[str]" = False,
    only: Collection[str] | None = None,
    histograms: bool = False,
    held_out: int = 0,
    limit: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int | None, str], None] | None = None,
) -> Statistics:
    """The work of ``statistics``: ``names`` of weights by variable.

    ``only``: these weights, of a share of the rows that meet them, and no ranges. ``histograms``: of the
    activations, too.
    """
    samples = Samples.of(data, interpreter, limit=limit, seed=seed)
    collector, ranges = _Collector(interpreter, names, full, only), RangeObserver(None if histograms else ())
    observers = [collector] if only is not None else [ranges, collector]
    statistics = collector.statistics
    if only is None:
        statistics.ranges = ranges.ranges
    statistics.data, statistics.random = samples.description, samples.random
    for sample in samples:
        collector.sample = sample.name
        held = held_out and statistics.samples % held_out == 1
        collector.weights = statistics.held_out if held else statistics.weights
        ranges.begin(statistics.held_out_histograms if held else statistics.histograms)
        interpreter.run(sample.inputs, interpreter.make_state(), observers)
        statistics.samples += 1
        if progress is not None:
            progress(statistics.samples, samples.count, sample.name)
    seen = statistics.weights.keys() | statistics.lookups.keys()
    statistics.skipped = {name: why for name, why in statistics.skipped.items() if name not in seen}
    return statistics


def _names(model: Any, function: str | None) -> dict[str, str]:
    """Names of a saved model's weights by variable, as reports have them: equal weights have one name."""
    if not isinstance(model, str | os.PathLike) and not hasattr(model, "get_spec"):
        return {}
    program = open_program(model)
    name = program.function_name(function)
    return {variable: site.weight.name for site in program.sites() for variable in site.variables(name)}


class _Collector:
    """The observer: adds what each op with weights was given."""

    def __init__(
        self,
        interpreter: Interpreter,
        names: Mapping[str, str],
        full: "bool | Collection[str]",
        only: Collection[str] | None = None,
    ) -> None:
        self.statistics = Statistics()
        self.sample = ""
        self.weights = self.statistics.weights  # or those of the samples held out
        self._full = full
        self._names = names
        self._only = only
        self._matmul = interpreter.backend.matmul
        self._conflicts: set[str] = set()
        self._axes: dict[str, tuple[str, int]] = {}  # of look-up tables: the op that first read it, its axis
        self._uses: dict[Any, list[tuple[str, str]]] = {}  # op -> (parameter, weight)
        self._index(interpreter.function)
        if not isinstance(full, bool):
            known = self.statistics.skipped
            unknown = sorted(set(full) - known.keys())
            if unknown:
                raise MilpassesError(
                    f"no weight {', '.join(unknown)}; the model has {', '.join(known) or 'none'}"
                )

    def _index(self, block: Any) -> None:
        """Find the weights of ``block`` and of the blocks inside; nothing has reached them yet."""
        for op in block.operations:
            for nested in op.blocks:
                self._index(nested)
            if op.op_type == "const" or op.op_type.startswith("constexpr_"):
                continue
            for param, bound in op.inputs.items():
                for var in bound if isinstance(bound, list | tuple) else [bound]:
                    if var is not None and is_constant(var) and _is_weight(var):
                        name = self._names.get(var.name) or base_name(var.op.name)
                        if self._only is not None and name not in self._only:
                            continue
                        self._uses.setdefault(op, []).append((param, name))
                        self.statistics.skipped[name] = Refusal("not-reached", op_type=op.op_type, op=op.name)

    def __call__(self, op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        for param, name in self._uses.get(op, ()):
            if weight_use(op.op_type, param).is_lookup:
                self._lookup(op, param, name, inputs)
            else:
                self._moments(op, param, name, inputs)

    def _lookup(self, op: Any, param: str, name: str, inputs: Mapping[str, Any]) -> None:
        lookups, skipped = self.statistics.lookups, self.statistics.skipped
        reads = reads_of(OpCall(op.op_type, op.name, inputs), param)
        if isinstance(reads, Refusal):
            skipped[name] = reads
            return
        axis, counts = reads
        first = self._axes.setdefault(name, (op.name, axis))
        if first[1] != axis:
            self._conflicts.add(name)
            skipped[name] = Refusal("other-lookup-axis", op_type=op.op_type, op=op.name, first=first[0])
            lookups.pop(name, None)
            self.statistics.lookup_axes.pop(name, None)
        elif name not in self._conflicts:
            self.statistics.lookup_axes[name] = axis
            lookups[name] = lookups[name] + counts if name in lookups else counts

    def _moments(self, op: Any, param: str, name: str, inputs: Mapping[str, Any]) -> None:
        if name in self._conflicts:
            return
        use = f"{op.op_type} {op.name}"
        flow = flow_of(OpCall(op.op_type, op.name, inputs), param)
        if isinstance(flow, Refusal):
            self.statistics.skipped[name] = flow
            return
        full = self._full if isinstance(self._full, bool) else name in self._full
        moments = self.weights.get(name) or Moments.empty(flow, full, use)
        if moments.layout != flow.layout:
            self._conflicts.add(name)
            others = ", ".join(moments.used_by)
            self.statistics.skipped[name] = Refusal(
                "other-channels", op_type=op.op_type, op=op.name, others=others
            )
            self.statistics.weights.pop(name, None)
            self.statistics.held_out.pop(name, None)
            return
        moments.add(flow, sampled=self._only is not None, matmul=self._matmul)
        if use not in moments.used_by:
            moments.used_by = (*moments.used_by, use)
        if not np.isfinite(moments.square_sum).all():
            raise MilpassesError(
                f"{self.sample}: the input of {use} is not finite: there are no statistics of that "
                '(precision="float32" tells whether float16 overflowed)'
            )
        self.weights[name] = moments


def _is_weight(var: Any) -> bool:
    if numpy_type(var.sym_type) not in _FLOATS or len(var.shape) < 2:
        return False
    return int(np.prod(var.shape)) >= SMALLEST_IN_FILE
