"""What observers see of two models: where an error arises, op by op, and where the first NaN does."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import attrs
import numpy as np

from milpasses.interpreter import Interpreter
from milpasses.interpreter.io import numpy_type
from milpasses.interpreter.registry import rule
from milpasses.program.weights import is_constant
from milpasses_tools._compare.comparison import NonFinite, OpError
from milpasses_tools._compare.match import Pair, live_inputs, match
from milpasses_tools._compare.metrics import ErrorSums

_NOT_ALONE = ("read_state", "coreml_update_state")


class FirstNonFinite:
    """Observer that keeps the first NaN and the first infinity among the results of a model's ops."""

    def __init__(self, model: Literal["a", "b"]) -> None:
        self.model: Literal["a", "b"] = model
        self.sample = ""
        self.found: dict[str, NonFinite] = {}

    def __call__(self, op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        if len(self.found) < 2:
            for var, value in zip(op.outputs, outputs, strict=True):
                self.check(value, var.name, op.name, op.op_type)

    def check(self, value: Any, output: str, op: str = "", op_type: str = "") -> None:
        """Look at one array."""
        if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
            return
        with np.errstate(all="ignore"):
            if np.isfinite(value.sum(dtype=np.float32)):  # quick: one pass without a temporary
                return
        for what, there in (("nan", np.isnan(value).any()), ("inf", np.isinf(value).any())):
            if there and what not in self.found:
                name = cast(Literal["nan", "inf"], what)
                self.found[what] = NonFinite(self.model, name, self.sample, output, op, op_type)


@attrs.define(eq=False)
class _Measured:
    """The sums of one pair: of each output, and of each output with the op run on a's inputs.

    ``own``: ``same`` where op and weights equal a's, ``alone`` where it is run on a's inputs, ``unknown``.
    """

    pair: Pair
    total: list[ErrorSums]
    alone: list[ErrorSums]
    own: Literal["unset", "same", "alone", "unknown"] = "unset"


class PerOp:
    """Observes a, then b, on each sample; ``watch_a`` and ``watch_b`` are the observers.

    All results of a are kept until b has made its own.
    """

    def __init__(self, a: Interpreter, b: Interpreter) -> None:
        self.matching = match(a.function, b.function)
        self._b = b
        self._same_precision = a.precision == b.precision
        self._seen: dict[Any, deque[tuple[Mapping[str, Any], Sequence[Any]]]] = {}
        self._by_a = {pair.a: pair for pair in self.matching.pairs}
        self._by_b = {
            pair.b: _Measured(
                pair, [ErrorSums() for _ in pair.b.outputs], [ErrorSums() for _ in pair.b.outputs]
            )
            for pair in self.matching.pairs
        }

    def watch_a(self, op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        """Keep what the first model's op was given and made."""
        if op in self._by_a:
            self._seen.setdefault(op, deque()).append((inputs, outputs))

    def watch_b(self, op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        """Measure the second model's op against its partner's next result (loops run an op several times)."""
        measured = self._by_b.get(op)
        seen = self._seen.get(measured.pair.a) if measured is not None else None
        if measured is None or not seen:
            return
        inputs_a, outputs_a = seen.popleft()
        _add(measured.total, outputs_a, outputs)
        if measured.own == "unset":
            measured.own = self._how_alone(measured.pair, inputs_a, inputs, outputs)
        if measured.own == "alone":
            arguments = {**inputs, **{param: inputs_a[param] for param in _live_params(op)}}
            _add(measured.alone, outputs_a, _run_alone(self._b, op, arguments))

    def next_sample(self) -> None:
        """Forget what is left of the last sample."""
        self._seen.clear()

    def _how_alone(
        self, pair: Pair, inputs_a: Mapping[str, Any], inputs: Mapping[str, Any], outputs: Sequence[Any]
    ) -> Literal["same", "alone", "unknown"]:
        op, live = pair.b, _live_params(pair.b)
        if (
            op.blocks
            or op.op_type in _NOT_ALONE
            or op.op_type.startswith("random_")
            or _live_params(pair.a) != live
            or not all(isinstance(value, np.ndarray) for value in outputs)
            or any(np.shape(inputs_a[param]) != np.shape(inputs[param]) for param in live
                   if isinstance(inputs[param], np.ndarray))
        ):  # fmt: skip
            return "unknown"
        fixed = inputs.keys() - live
        same = (
            self._same_precision
            and fixed == inputs_a.keys() - live
            and [numpy_type(var.sym_type) for var in op.outputs]
            == [numpy_type(var.sym_type) for var in pair.a.outputs]
            and all(_equal(inputs_a[param], inputs[param]) for param in fixed)
        )
        return "same" if same else "alone"

    def results(self) -> tuple[OpError, ...]:
        """The figures of every pair that ran, over all samples, in the order of the first model."""
        snr = {
            var: sums.snr_db
            for measured in self._by_b.values()
            for var, sums in zip(measured.pair.b.outputs, measured.total, strict=True)
            if sums.count
        }
        found: list[OpError] = []
        for measured in self._by_b.values():
            pair = measured.pair
            inputs = [_input_snr(var, snr) for var in live_inputs(pair.b).values()]
            known = [one for one in inputs if one is not None and not math.isnan(one)]
            for index, (var, total) in enumerate(zip(pair.a.outputs, measured.total, strict=True)):
                if not total.count:
                    continue
                own = {"same": float("inf"), "alone": measured.alone[index].snr_db}.get(measured.own)
                found.append(
                    OpError(
                        pair.a.name,
                        pair.b.name,
                        pair.a.op_type,
                        var.name,
                        pair.how,
                        total.snr_db,
                        total.largest,
                        min(known, default=None),
                        own,
                    )
                )
        return tuple(found)


def _input_snr(var: Any, snr: dict[Any, float]) -> float | None:
    """Error of an input: none in what both models are given."""
    return float("inf") if var.op is None and var not in snr else snr.get(var)


def _live_params(op: Any) -> set[str]:
    return {
        param
        for param, bound in op.inputs.items()
        if bound is not None
        and not param.startswith("_")
        and any(not is_constant(var) for var in (bound if isinstance(bound, list | tuple) else [bound]))
    }


def _add(sums: list[ErrorSums], outputs_a: Sequence[Any], outputs: Sequence[Any]) -> None:
    for one, x, y in zip(sums, outputs_a, outputs, strict=True):
        if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and x.shape == y.shape:
            one.add(x, y)


def _equal(x: Any, y: Any) -> bool:
    if isinstance(x, np.ndarray) or isinstance(y, np.ndarray):
        return np.array_equal(x, y)
    return bool(x == y)


@attrs.frozen
class _Alone:
    """The context of an op outside its program; those that ask for more of it are not run alone."""

    op: Any
    backend: Any


def _run_alone(interpreter: Interpreter, op: Any, arguments: Mapping[str, Any]) -> list[Any]:
    """The op's outputs for other inputs, rounded as the interpreter does."""
    found = rule(op.op_type)
    assert found is not None
    context = [_Alone(op, interpreter.backend)] if found.wants_context else []
    result = found.function(*context, **arguments)
    results = result if isinstance(result, tuple) else (result,)
    return [
        interpreter.finish(value, numpy_type(var.sym_type), False)
        for value, var in zip(results, op.outputs, strict=True)
    ]
