"""Where ``compare --per-op`` finds errors to arise."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compare_programs import draw, program
from coremltools.converters.mil import Builder as mb
from milpasses_tools import compare, explain
from milpasses_tools._compare.match import match

import milpasses

INF = math.inf


class TestPerOp:
    W1, W2, X = draw(8, 4), draw(3, 8), draw(5, 4)

    def network(self, w1: np.ndarray, w2: np.ndarray, half: bool = False) -> Any:
        def build(x: Any) -> Any:
            if half:
                x = mb.cast(x=x, dtype="fp16")
                w = [w1.astype(np.float16), w2.astype(np.float16)]
            else:
                w = [w1, w2]
            x = mb.relu(x=mb.linear(x=x, weight=w[0], name="first"), name="positive")
            x = mb.linear(x=x, weight=w[1], name="second")
            return mb.cast(x=x, dtype="fp32", name="out") if half else mb.mul(x=x, y=1.0, name="out")

        return program(build, (1, 4))

    def test_own_error_is_that_of_the_ops_weights_alone(self):
        w1, w2 = self.W1 + 0.01 * draw(8, 4), self.W2 + 0.1 * draw(3, 8)
        data = [{"x": row[None]} for row in self.X]
        found = compare(self.network(self.W1, self.W2), self.network(w1, w2), data, per_op=True)
        ops = {op.op: op for op in found.ops}
        assert list(ops) == ["first", "positive", "second", "out"]
        hidden, other = np.maximum(self.X @ self.W1.T, 0), np.maximum(self.X @ w1.T, 0)

        def snr(a: np.ndarray, b: np.ndarray) -> Any:
            return pytest.approx(10 * np.log10((a**2).sum() / ((a - b) ** 2).sum()), abs=1e-3)

        first, positive, second, out = ops.values()
        assert first.own_snr_db == first.snr_db == snr(self.X @ self.W1.T, self.X @ w1.T)
        assert first.input_snr_db == INF
        assert (positive.own_snr_db, positive.input_snr_db) == (INF, first.snr_db)
        assert positive.snr_db == second.input_snr_db == snr(hidden, other)
        assert second.snr_db == snr(hidden @ self.W2.T, other @ w2.T)
        assert second.own_snr_db == snr(hidden @ self.W2.T, hidden @ w2.T)
        assert (out.snr_db, out.own_snr_db) == (second.snr_db, INF)
        assert [op.op for op in found.worst_ops()][:2] == ["second", "first"]
        assert {op.matched for op in found.ops} == {"name"}

    def test_a_model_against_itself_is_exact(self):
        model = self.network(self.W1, self.W2)
        found = compare(model, model, per_op=True)
        assert {(op.snr_db, op.own_snr_db, op.input_snr_db, op.max_error) for op in found.ops} == {
            (INF, INF, INF, 0)
        }

    def test_other_types_are_errors_of_their_own(self):
        a, b = self.network(self.W1, self.W2), self.network(self.W1, self.W2, half=True)
        found = compare(a, b, per_op=True)
        ops = {op.op: op for op in found.ops}
        assert list(ops) == ["first", "positive", "second"]
        for op in ops.values():
            assert op.own_snr_db is not None
            assert 50 < op.own_snr_db < INF
        assert found.unmatched_a == ("out",)  # casts are left out
        assert ops["second"].input_snr_db == ops["positive"].snr_db

    def test_ops_without_names_in_common_match_by_structure(self):
        def build(x: Any, start: int, weights: Any) -> Any:
            names = itertools.count(start)
            branches = [mb.linear(x=x, weight=weight, name=f"op_{next(names)}") for weight in weights]
            x = mb.add(x=branches[0], y=branches[1], name=f"op_{next(names)}")
            return mb.mul(x=mb.sigmoid(x=x, name=f"op_{next(names)}"), y=1.0, name="out")

        weights = (draw(4, 4), draw(4, 4))
        a, b = (program(lambda x, n=n: build(x, n, weights), (1, 4)) for n in (0, 50))
        found = compare(a, b, per_op=True)
        assert [(op.op, op.other_op) for op in found.ops[:4]] == [
            (f"op_{n}", f"op_{n + 50}") for n in range(4)
        ]
        assert [op.matched for op in found.ops] == ["structure"] * 4 + ["name"]
        assert {op.snr_db for op in found.ops} == {INF}

    @pytest.mark.parametrize("step", [-1, 1])
    def test_numbers_that_have_moved_are_no_names(self, step: int):
        def build(x: Any, start: int) -> Any:
            for index in range(4):
                x = mb.linear(
                    x=x, weight=np.full((4, 4), 0.1 + index, np.float32), name=f"op_{start + index}"
                )
            return x

        a, b = (program(lambda x, n=n: build(x, n), (1, 4)) for n in (5, 5 + step))
        matching = match(a.functions["main"], b.functions["main"])
        assert [(pair.a.name, pair.b.name) for pair in matching.pairs] == [
            (f"op_{5 + n}", f"op_{5 + n + step}") for n in range(4)
        ]
        assert (matching.unmatched_a, matching.unmatched_b) == ([], [])

    def test_an_op_that_the_other_has_not_is_listed(self):
        def build(x: Any, extra: bool) -> Any:
            x = mb.relu(x=x, name="before")
            if extra:
                x = mb.relu(x=x, name="extra")
            return mb.tanh(x=x, name="after")

        a, b = (program(lambda x, e=extra: build(x, e), (1, 4)) for extra in (True, False))
        found = compare(a, b, per_op=True)
        assert [op.op for op in found.ops] == ["before", "after"]
        assert (found.unmatched_a, found.unmatched_b) == (("extra",), ())
        found = compare(b, a, per_op=True)
        assert (found.unmatched_a, found.unmatched_b) == ((), ("extra",))

    def test_an_op_is_left_to_its_namesake(self):
        def build(x: Any, names: str) -> Any:
            return mb.concat(values=[mb.relu(x=x, name=name) for name in names], axis=1, name="out")

        a, b = (program(lambda x, n=names: build(x, n), (1, 4)) for names in ("qk", "k"))
        matching = match(a.functions["main"], b.functions["main"])
        assert [(pair.a.name, pair.b.name) for pair in matching.pairs] == [("k", "k")]
        assert [op.name for op in matching.unmatched_a] == ["q", "out"]  # of another shape
        assert [op.name for op in matching.unmatched_b] == ["out"]

    def test_loops_compare_turn_by_turn(self):
        def build(x: Any, factor: float) -> Any:
            return mb.while_loop(
                _cond=lambda v: mb.squeeze(x=mb.less(x=v, y=[100.0], name="less")),
                _body=lambda v: mb.mul(x=v, y=np.array([factor], np.float32), name="grow"),
                loop_vars=(x,),
                name="loop",
            )

        a, b = (program(lambda x, f=f: build(x, f), (1,)) for f in (2.0, 2.5))
        found = compare(a, b, [{"x": [10.0]}], per_op=True)
        ops = {op.op: op for op in found.ops}
        turns, others = np.array([20.0, 40, 80, 160]), np.array([25.0, 62.5, 156.25])
        signal, noise = (turns[:3] ** 2).sum(), ((turns[:3] - others) ** 2).sum()
        assert ops["grow"].snr_db == pytest.approx(10 * np.log10(signal / noise))
        own = ((turns[:3] - turns[:3] / 2 * 2.5) ** 2).sum()
        assert ops["grow"].own_snr_db == pytest.approx(10 * np.log10(signal / own))
        assert ops["loop"].own_snr_db is None

    def test_of_compressed_weights(self, digits_packages: dict[str, Path]):
        small = milpasses.compress(digits_packages["iOS18"], "int4; op_type=linear -> keep")
        found = compare(digits_packages["iOS18"], small, samples=2, per_op=True)
        assert (found.unmatched_a, found.unmatched_b) == ((), ())
        added = {op.op for op in found.ops if op.own_snr_db != INF}
        uses = {weight.name: weight.used_by for weight in explain(small).weights}
        compressed = [record.name for record in small.report if record.status == "compressed"]
        assert len(compressed) == 2
        assert added == {use.partition(":")[0] for name in compressed for use in uses[name]}
        assert found.b == "a CompressedModel in memory"
