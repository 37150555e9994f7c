"""What ``compare`` measures, against NumPy; where it finds errors to arise; how it ends."""

import csv
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from coremltools.converters.mil.testing_utils import compute_snr_and_psnr
from milpasses_tools import _runners, compare, explain
from milpasses_tools._comparison_text import print_comparison
from milpasses_tools._match import match
from milpasses_tools._metrics import AccuracySums, Agreement, ErrorSums, kind_of
from milpasses_tools.compare import Comparison, Miss, OutputError, accuracy

import milpasses
from milpasses.errors import MilpassesError
from milpasses.interpreter import Feature, Interpreter
from milpasses.interpreter.images import ImageFormat
from milpasses.samples import Sample

RNG = np.random.default_rng(11)
INF = math.inf
Run = Callable[..., Any]  # the fixture milpasses_command


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def program(build: Any, *shapes: tuple[int, ...], dtype: Any = types.fp32, names: str = "xyz") -> Any:
    """A program of inputs x, y, ... and whatever ``build`` makes of them."""
    specs = [mb.TensorSpec(shape=shape, dtype=dtype) for shape in shapes]
    scope: dict[str, Any] = {"build": build}
    listed = ", ".join(names[: len(shapes)])
    exec(f"def made({listed}): return build({listed})", scope)
    return mb.program(input_specs=specs, opset_version=ct.target.iOS17)(scope["made"])


def scaled(factor: float, offset: float = 0.0, shape: tuple[int, ...] = (1, 4)) -> Any:
    """factor * x + offset, called out."""
    return program(
        lambda x: mb.add(
            x=mb.mul(x=x, y=np.float32(factor), name="product"), y=np.float32(offset), name="out"
        ),
        shape,
    )


class TestErrors:
    def test_over_all_samples(self):
        a, b = draw(3, 200_000), draw(3, 200_000)
        b = a + 0.01 * b
        sums = ErrorSums()
        for x, y in zip(a, b, strict=True):
            sums.add(x, y)
        x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        assert sums.count == x.size
        assert sums.snr_db == pytest.approx(10 * np.log10((x @ x) / ((x - y) @ (x - y))))
        assert sums.psnr_db() == pytest.approx(10 * np.log10((x**2).max() / ((x - y) ** 2).mean()))
        assert sums.psnr_db(2.0) == pytest.approx(10 * np.log10(4 / ((x - y) ** 2).mean()))
        assert sums.largest == np.abs(x - y).max()
        assert sums.mean_error == pytest.approx(np.abs(x - y).mean())
        assert sums.cosine == pytest.approx((x @ y) / np.linalg.norm(x) / np.linalg.norm(y))

    def test_are_coremltools_own(self):
        a, b = draw(1000), draw(1000)
        sums = ErrorSums()
        sums.add(a, b)
        assert (sums.snr_db, sums.psnr_db()) == pytest.approx(compute_snr_and_psnr(b, a), abs=1e-3)

    def test_nothing_differs(self):
        sums = ErrorSums()
        sums.add(draw(5), draw(5) * 0)
        assert sums.snr_db == pytest.approx(0)
        exact, zeros = ErrorSums(), ErrorSums()
        same = np.array([1.0, -INF, np.nan], np.float32)
        exact.add(same, same.copy())
        zeros.add(np.zeros(3), np.zeros(3))
        for one in (exact, zeros):
            assert (one.snr_db, one.psnr_db(), one.largest, one.mean_error, one.cosine) == (INF, INF, 0, 0, 1)
        noise = ErrorSums()
        noise.add(np.zeros(3), np.ones(3))
        assert (noise.snr_db, noise.cosine) == (-INF, 0)

    @pytest.mark.parametrize("bad", [np.nan, INF])
    def test_a_value_that_is_finite_in_one_alone_is_infinite_noise(self, bad: float):
        for a, b in (
            ([1.0, bad], [1.0, 2.0]),
            ([1.0, 2.0], [1.0, bad]),
            ([bad], [-bad if bad == INF else 1.0]),
        ):
            sums = ErrorSums()
            sums.add(np.array(a), np.array(b))
            assert (sums.snr_db, sums.psnr_db(), sums.largest, sums.mean_error) == (-INF, -INF, INF, INF)
            assert math.isnan(sums.cosine)


class TestAgreement:
    def test_first_and_among_k(self):
        a = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3], [9, 0, 0, 0]])
        b = np.array([[3.0, 2, 1, 0], [0, 3, 4, 2], [0, 1, 2, 3]])
        sums = Agreement(3)
        sums.add(a, b)
        assert (sums.rows, sums.first, sums.among) == (3, 1, 2)

    def test_equal_scores_are_all_among_the_first(self):
        sums = Agreement(1)
        sums.add(np.array([[0.0, 1.0]]), np.array([[1.0, 1.0]]))
        assert (sums.first, sums.among) == (0, 1)

    def test_nan_agrees_with_nothing(self):
        sums = Agreement(5)
        sums.add(np.array([[np.nan, 1.0]] * 2), np.array([[np.nan, 1.0], [0.0, 1.0]]))
        sums.add(np.array([[0.0, 1.0]]), np.array([[np.nan, 1.0]]))
        assert (sums.rows, sums.first, sums.among) == (3, 0, 0)

    def test_what_an_output_is(self):
        outputs = {
            "p": {"cat": 1.0},
            "label": "cat",
            "index": np.array(3),
            "photo": np.zeros((2, 2, 3), np.uint8),
            "logits": draw(1, 5),
            "features": draw(1, 5, 2),
            "size": np.array([1, 2]),
        }
        kinds = ["probabilities", "label", "label", "image", "scores", "array", "array"]
        assert [kind_of(name, value, outputs, None) for name, value in outputs.items()] == kinds
        assert kind_of("features", outputs["features"], outputs, "features") == "scores"
        assert kind_of("count", np.array(3), {"count": np.array(3)}, None) == "array"


class TestAccuracy:
    SCORES = {  # noqa: RUF012
        "x": np.eye(4, dtype=np.float32)[[0, 1, 2, 2, 3]]
        + 0.1 * np.eye(4, k=1, dtype=np.float32)[[0, 1, 2, 2, 3]]
    }

    def test_by_class_and_in_all(self):
        found = accuracy(scaled(1), {**self.SCORES, "labels": [0, 2, 2, 3, 3]}, top_k=2)
        assert (found.count, found.top1, found.top_k, found.k) == (5, 0.6, 1.0, 2)
        assert [(c.label, c.count, c.top1, c.top_k) for c in found.classes] == [
            (0, 1, 1, 1), (2, 2, 0.5, 1), (3, 2, 0.5, 1),
        ]  # fmt: skip
        assert "not an emulation of Core ML" in found.note
        assert found.data == "arrays"

    def test_of_a_batch(self):
        data = [({"x": self.SCORES["x"]}, (0, 2, 2, 3, 3))]
        found = accuracy(scaled(1, shape=(5, 4)), data)
        assert (found.count, found.top1) == (5, 0.6)
        with pytest.raises(MilpassesError, match=r"item\[0\]: 2 labels for 5 rows of output out"):
            accuracy(scaled(1, shape=(5, 4)), [({"x": self.SCORES["x"]}, (0, 2))])

    def test_equal_scores_and_nan(self):
        sums = AccuracySums(None, 1)
        sums.add({"s": np.array([[1.0, 1.0]])}, Sample({}, 1))
        sums.add({"s": np.array([[np.nan, 1.0]])}, Sample({}, 0))
        found = sums.result("", "")
        assert found is not None
        assert [(c.top1, c.top_k) for c in found.classes] == [(0, 0), (0, 1)]

    @pytest.mark.parametrize(
        ("label", "message"),
        [
            (
                4,
                r"the arrays\[1\]: label '4' is no index of a class, 0 to 3: the model does not name its",
            ),
            ("cat", "label 'cat' is no index"),
            (-1, "label '-1' is no index"),
        ],
    )
    def test_labels_must_be_indices_where_classes_have_no_names(self, label: Any, message: str):
        with pytest.raises(MilpassesError, match=message):
            accuracy(scaled(1), {"x": self.SCORES["x"][:2], "labels": np.array([0, label])})

    def test_classes_with_names(self):
        def count(label: Any, classes: Any) -> Any:
            sums = AccuracySums(None, 1)
            sums.add({"label": "b", "p": dict(zip(classes, (0.1, 0.9), strict=True))}, Sample({}, label, "s"))
            found = sums.result("", "")
            assert found is not None
            return found.classes[0].label, found.top1

        assert count("b", ("a", "b")) == ("b", 1)
        assert count("a", ("a", "b")) == ("a", 0)
        assert count(1, ("a", "b")) == ("b", 1)  # by index where no class has that name
        assert count("7", (5, 7)) == (7, 1)  # a folder's name is text
        assert count(5, (5, 7)) == (5, 0)
        for label, classes in (("c", ("a", "b")), (2, ("a", "b")), (1, (5, 7))):
            with pytest.raises(MilpassesError, match=f"s: the model knows no class '{label}'; it knows "):
                count(label, classes)

    def test_needs_labels_and_scores(self):
        with pytest.raises(MilpassesError, match="needs labels"):
            accuracy(scaled(1), self.SCORES)
        two = program(lambda x: (mb.mul(x=x, y=2.0, name="one"), mb.mul(x=x, y=3.0, name="two")), (1, 4))
        labelled = {**self.SCORES, "labels": [0, 2, 2, 3, 3]}
        with pytest.raises(MilpassesError, match="outputs one, two could all be class scores: name one"):
            accuracy(two, labelled)
        assert accuracy(two, labelled, scores="two").top1 == 0.6
        with pytest.raises(MilpassesError, match="no output three; the model's outputs are one, two"):
            accuracy(two, labelled, scores="three")


class TestCompare:
    def test_figures(self):
        x = draw(3, 4)
        found = compare(scaled(1), scaled(1.1, 0.5), {"x": x, "labels": [0, 1, 2]}, top_k=2)
        y = (x * np.float32(1.1) + np.float32(0.5)).astype(np.float64)
        output = found["out"]
        assert (found.samples, found.data, found.random, found.k) == (3, "arrays", False, 2)
        assert output.snr_db == pytest.approx(10 * np.log10((x**2.0).sum() / ((x - y) ** 2).sum()))
        assert output.max_error == pytest.approx(np.abs(x - y).max())
        assert (output.kind, output.agreement, output.top_k_agreement) == ("scores", 1, 1)
        assert (
            found.accuracy_a
            == found.accuracy_b
            == accuracy(scaled(1), {"x": x, "labels": [0, 1, 2]}, top_k=2)
        )
        assert (found.nonfinite, found.ops, found.unmatched_a) == ((), (), ())
        assert "not an emulation of Core ML" in found.note
        with pytest.raises(KeyError, match="no output 'bogus'; there are out"):
            found["bogus"]

    def test_takes_one_sample_at_a_time(self):
        events: list[str] = []

        def samples() -> Iterator[Any]:
            for index in range(3):
                events.append(f"made {index}")
                yield {"x": draw(1, 4)}

        compare(
            scaled(1),
            scaled(1),
            samples,
            progress=lambda done, total, name: events.append(f"ran {done} of {total}"),
        )
        assert events == ["made 0", "ran 1 of 0", "made 1", "ran 2 of 0", "made 2", "ran 3 of 0"]

    def test_random_data_says_so(self):
        found = compare(scaled(1), scaled(1), samples=3, seed=4)
        assert found.random
        assert (found.samples, found.data) == (3, "random data, seed 4")
        assert (found["out"].snr_db, found["out"].psnr_db, found["out"].cosine) == (INF, INF, 1)

    def test_models_that_are_not_alike(self):
        with pytest.raises(
            MilpassesError, match=r"different inputs: x \(tensor 1x4\) against x \(tensor 1x5\)"
        ):
            compare(scaled(1), scaled(1, shape=(1, 5)))
        other = program(lambda x: mb.mul(x=x, y=2.0, name="other"), (1, 4))
        with pytest.raises(MilpassesError, match="different outputs: out against other"):
            compare(scaled(1), other)
        halved = program(lambda x: mb.slice_by_size(x=x, begin=[0, 0], size=[1, 2], name="out"), (1, 4))
        with pytest.raises(
            MilpassesError, match=r"output out: of shape \(1, 4\) in one model, \(1, 2\) in the other"
        ):
            compare(scaled(1), halved)
        with pytest.raises(MilpassesError, match="no output bogus"):
            compare(scaled(1), scaled(1), scores="bogus")
        with pytest.raises(ValueError, match="bogus"):
            compare(scaled(1), scaled(1), runtime="bogus")

    def test_states_start_anew_with_each_sample(self):
        specs = [mb.TensorSpec((2,), dtype=types.fp16), mb.StateTensorSpec((2,), dtype=types.fp16)]

        @mb.program(input_specs=specs, opset_version=ct.target.iOS18)
        def stateful(x: Any, total: Any) -> Any:
            summed = mb.add(x=mb.read_state(input=total), y=x)
            return mb.mul(x=mb.coreml_update_state(state=total, value=summed), y=np.float16(1), name="out")

        plain = program(lambda x: mb.mul(x=x, y=np.float16(1), name="out"), (2,), dtype=types.fp16)
        a, b = Interpreter(stateful), Interpreter(plain)
        with pytest.raises(MilpassesError, match="total"):
            compare(a, b)
        found = compare(a, a, per_op=True, samples=2)
        assert found["out"].snr_db == INF
        assert {op.op_type: op.own_snr_db for op in found.ops}["coreml_update_state"] is None

    def test_first_values_that_are_not_finite(self):
        def build(x: Any, factor: float) -> Any:
            x = mb.log(x=mb.mul(x=x, y=np.float32(factor), name="product"), epsilon=0.0, name="logarithm")
            return mb.sub(x=x, y=mb.relu(x=x, name="positive"), name="out")

        a, b = (program(lambda x, f=factor: build(x, f), (2,)) for factor in (1.0, -1.0))
        found = compare(a, b, [{"x": [1.0, 2.0]}, {"x": [0.0, 3.0]}])
        assert [(n.model, n.value, n.sample, n.op, n.op_type, n.output) for n in found.nonfinite] == [
            ("a", "inf", "item[1]", "logarithm", "log", "logarithm"),
            ("b", "nan", "item[0]", "logarithm", "log", "logarithm"),
            ("b", "inf", "item[1]", "logarithm", "log", "logarithm"),
        ]
        assert str(found.nonfinite[0]) == "model a: first inf in logarithm of log logarithm, sample item[1]"
        assert found["out"].snr_db == -INF
        assert found["out"].agreement == 0


@pytest.fixture(scope="module")
def cats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Classifiers of 2x2 photos by their colour, cat.mlpackage and dog.mlpackage (all is dog), and photos."""
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path_factory.mktemp("cats")
    for name, weight in (("cat", [[1.0, 0, 0], [0, 0, 1]]), ("dog", [[0.0, 0, 0], [1, 1, 1]])):
        network = program(
            lambda photo, w=weight: mb.softmax(
                x=mb.linear(x=mb.reduce_mean(x=photo, axes=[2, 3]), weight=np.array(w, np.float32)),
                axis=-1,
                name="p",
            ),
            (1, 3, 2, 2),
            names=["photo"],  # pyright: ignore[reportArgumentType]
        )
        ct.convert(
            network,
            inputs=[ct.ImageType(name="photo", shape=(1, 3, 2, 2), scale=1 / 255)],
            classifier_config=ct.ClassifierConfig(["cat", "dog"], predicted_feature_name="animal"),
            minimum_deployment_target=ct.target.iOS17,
            skip_model_load=True,
        ).save(str(folder / f"{name}.mlpackage"))
    for name, color in (("cat/1.png", (255, 0, 0)), ("dog/1.png", (0, 0, 255)), ("dog/2.png", (9, 0, 200))):
        path = folder / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (4, 4), color).save(path)
    return folder


class TestClassifiers:
    def test_a_folder_of_classes(self, cats: Path):
        found = compare(cats / "cat.mlpackage", cats / "dog.mlpackage", cats / "photos", per_op=True)
        assert [op.op_type for op in found.ops if op.own_snr_db != INF] == ["linear"]
        kinds = {output.name: (output.kind, output.agreement) for output in found.outputs}
        (probabilities,) = (name for name, (kind, _) in kinds.items() if kind == "probabilities")
        assert kinds == {"animal": ("label", 2 / 3), probabilities: ("probabilities", 2 / 3)}
        assert found["animal"].snr_db is None
        snr = found[probabilities].snr_db
        assert snr is not None
        assert 0 < snr < 40
        assert found.accuracy_a is not None
        assert found.accuracy_b is not None
        assert (found.accuracy_a.top1, found.accuracy_b.top1) == (1, 2 / 3)
        assert [(c.label, c.count, c.top1) for c in found.accuracy_b.classes] == [
            ("cat", 1, 0),
            ("dog", 2, 1),
        ]
        assert accuracy(cats / "dog.mlpackage", cats / "photos") == found.accuracy_b

    def test_a_class_that_the_model_does_not_know(self, cats: Path, tmp_path: Path):
        (tmp_path / "eel").mkdir()
        (tmp_path / "eel" / "1.png").write_bytes((cats / "photos" / "cat" / "1.png").read_bytes())
        with pytest.raises(
            MilpassesError, match=r"eel.1\.png: the model knows no class 'eel'; it knows cat, dog"
        ):
            accuracy(cats / "cat.mlpackage", tmp_path)

    def test_models_of_different_classes(self, cats: Path):
        from milpasses_tools._metrics import OutputSums

        with pytest.raises(MilpassesError, match="different classes"):
            OutputSums("p", "probabilities", 5).add({"a": 1.0}, {"b": 1.0})


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


class TestLimits:
    FOUND = Comparison(
        "a", "b", "data", 1, False, "note", 5,
        (
            OutputError("x", "scores", 30.0, 40.0, 0.5, 0.1, 1.0, 0.9, 1.0),
            OutputError("y", "array", 50.0, 60.0, 0.25, 0.1, 1.0),
            OutputError("z", "label", agreement=0.5),
        ),
    )  # fmt: skip

    def test_for_every_output_or_by_name(self):
        assert self.FOUND.misses() == ()
        assert self.FOUND.misses(min_snr=30, max_error=0.5, min_agreement=0.5) == ()
        assert self.FOUND.misses(min_snr=31) == (Miss("x", "snr_db", 30.0, 31),)
        assert self.FOUND.misses(min_snr={"y": 51}) == (Miss("y", "snr_db", 50.0, 51),)
        assert self.FOUND.misses(min_snr={"*": 40, "x": 20}) == ()
        assert [miss.output for miss in self.FOUND.misses(max_error=0.1, min_agreement=0.95)] == [
            "x",
            "y",
            "x",
            "z",
        ]
        assert str(Miss("x", "max_error", 0.5, 0.25)) == "x: max_error 0.5 > 0.25"

    def test_what_is_nan_keeps_no_limit(self):
        found = Comparison(
            "a", "b", "data", 1, False, "note", 5, (OutputError("x", "array", math.nan, 0, math.nan),)
        )
        assert len(found.misses(min_snr=-1000, max_error=1e9)) == 2

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            ({"min_snr": {"bogus": 3}}, "no output bogus that has a snr_db; there are x, y"),
            ({"min_agreement": {"y": 0.5}}, "no output y that has a agreement; there are x, z"),
            ({"min_agreement": 99}, "99 is no limit for agreement, which is a share"),
            ({"min_snr": math.nan}, "nan is no limit"),
        ],
    )
    def test_that_nothing_can_be_measured_by(self, limits: dict[str, Any], message: str):
        with pytest.raises(MilpassesError, match=message):
            self.FOUND.misses(**limits)

    def test_data(self):
        rows = self.FOUND.rows()
        assert [row["name"] for row in rows] == ["x", "y", "z"]
        assert {len(row) for row in rows} == {19}
        assert json.loads(self.FOUND.to_json())["outputs"][0]["snr_db"] == 30.0
        parsed = list(csv.DictReader(self.FOUND.to_csv().splitlines()))
        assert [(row["kind"], row["type"], row["agreement"]) for row in parsed] == [
            ("output", "scores", "0.9"), ("output", "array", ""), ("output", "label", "0.5"),
        ]  # fmt: skip


class StandIn:
    """What ``MLModel`` is on macOS, as far as ``predict`` goes."""

    def __init__(self, outputs: dict[str, Any], state: Any = None) -> None:
        self.outputs, self.state, self.calls = outputs, state, []  # pyright: ignore

    def make_state(self) -> Any:
        return self.state

    def predict(self, data: dict[str, Any], **options: Any) -> dict[str, Any]:
        self.calls.append((data, options))
        return self.outputs


class TestCoreML:
    PHOTO = Feature("photo", "image", np.float32, (1, 3, 2, 2), ImageFormat("BGR"))
    IDS = Feature("ids", "tensor", np.int32, (2,))

    def test_what_goes_in_and_comes_out(self):
        image = pytest.importorskip("PIL.Image")
        pixels = RNG.integers(0, 256, (2, 2, 3)).astype(np.uint8)
        made = {
            "painted": image.fromarray(pixels).convert("RGBA"),
            "label": "cat",
            "p": {"cat": 1.0},
            "more": 1,
        }
        model = StandIn(made)
        runner = _runners.CoreML(model, {"photo": self.PHOTO, "ids": self.IDS}, ["painted", "label", "p"])
        outputs = runner.run({"photo": pixels, "ids": [1, 2]})
        ((given, options),) = model.calls
        assert options == {}
        assert given["photo"].mode == "RGB"
        np.testing.assert_array_equal(np.asarray(given["photo"]), pixels)
        assert given["ids"].dtype == np.int32
        np.testing.assert_array_equal(outputs.pop("painted"), pixels)
        assert outputs == {"label": "cat", "p": {"cat": 1.0}}
        with pytest.raises(MilpassesError, match="Core ML gave no output q; it gave painted"):
            _runners.CoreML(model, {}, ["q"]).run({})

    def test_states(self):
        model = StandIn({"out": np.zeros(2)}, state="fresh")
        features = {"total": Feature("total", "state", np.float16, (2,))}
        _runners.CoreML(model, features, ["out"]).run({})
        assert model.calls == [({}, {"state": "fresh"})]

    def test_is_for_macos(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(sys, "platform", "linux")
        with pytest.raises(MilpassesError, match="runtime coreml needs macOS"):
            compare(scaled(1), scaled(1), runtime="coreml")
        monkeypatch.setattr(sys, "platform", "darwin")
        with pytest.raises(MilpassesError, match="needs a saved model or an MLModel, got Program"):
            compare(scaled(1), scaled(1), runtime="coreml")

    def test_opens_the_function_that_was_asked_for(
        self, monkeypatch: pytest.MonkeyPatch, digits_packages: dict[str, Path], tmp_path: Path
    ):
        class Loaded(ct.models.MLModel):
            def __init__(
                self, path: str, function_name: str | None = None, skip_model_load: bool = False
            ) -> None:
                super().__init__(path, skip_model_load=True)
                self.opened = path, function_name, skip_model_load

        descriptor = ct.utils.MultiFunctionDescriptor()
        for name in ("one", "two"):
            descriptor.add_function(str(digits_packages["iOS18"]), "main", name)
        descriptor.default_function_name = "one"
        several = str(tmp_path / "several.mlpackage")
        ct.utils.save_multifunction(descriptor, several)
        plain = str(digits_packages["iOS18"])
        monkeypatch.setattr(sys, "platform", "darwin")
        monkeypatch.setattr(ct.models, "MLModel", Loaded)
        for path, function, opened in (
            (plain, "main", (plain, None, False)),
            (several, "two", (several, "two", False)),
        ):
            runner = _runners.open_runner(path, function, "coreml")
            assert isinstance(runner, _runners.CoreML)
            assert runner.model.opened == opened
            assert (list(runner.inputs), runner.output_names) == (["image"], ["scores"])

    def test_compares_its_outputs(self, monkeypatch: pytest.MonkeyPatch):
        made = iter([np.array([[1.0, 2.0]]), np.array([[1.0, np.nan]])])
        features = {"x": Feature("x", "tensor", np.float32, (1, 2))}

        def stand_in(*_: Any) -> Any:
            return _runners.CoreML(StandIn({"out": next(made)}), features, ["out"])

        monkeypatch.setattr(_runners, "open_runner", stand_in)
        found = compare("a", "b", runtime="coreml", samples=1)
        assert found.note == "by Core ML on this machine"
        assert [(n.model, n.value, n.output, n.op) for n in found.nonfinite] == [("b", "nan", "out", "")]
        assert str(found.nonfinite[0]) == "model b: first nan in out, sample random[0]"
        made = iter([np.zeros(1)] * 2)
        with pytest.raises(MilpassesError, match="per_op needs runtime reference"):
            compare("a", "b", runtime="coreml", per_op=True)


@pytest.fixture(scope="module")
def small(digits_packages: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo network with 4-bit tables."""
    output = tmp_path_factory.mktemp("compare") / "small.mlpackage"
    milpasses.compress(digits_packages["iOS18"], "pal4", output=output)
    return output


class TestCommand:
    def test_prints_figures_and_what_they_are_worth(
        self, milpasses_command: Run, digits_packages: dict[str, Path], small: Path, tmp_path: Path
    ):
        from milpasses_tools import digits

        data = digits.load()
        np.savez(tmp_path / "d.npz", image=data.images[:6], labels=data.labels[:6])
        outcome = milpasses_command(
            "compare", digits_packages["iOS18"], small, "--data", tmp_path / "d.npz", "--per-op", "--top", 2,
            "--min-snr", 5, "--csv", tmp_path / "d.csv",
        )  # fmt: skip
        assert (outcome.status, outcome.err) == (0, "")
        lines = outcome.out.splitlines()
        assert lines[0].split()[:3] == ["output", "SNR", "dB"]
        assert lines[1].startswith("scores")
        assert any(line.startswith("all") and line.split()[1] == "6" for line in lines)
        assert any("more results of ops" in line for line in lines)
        assert any("more classes" in line for line in lines)
        assert lines[-2] == f"on 6 samples of {tmp_path / 'd.npz'}"
        assert "not an emulation of Core ML" in lines[-1]
        rows = list(csv.DictReader((tmp_path / "d.csv").read_text().splitlines()))
        kinds = [row["kind"] for row in rows]
        assert kinds == sorted(kinds, key=["output", "accuracy", "class", "op"].index)
        assert kinds.count("op") == 17

    def test_json(self, milpasses_command: Run, digits_packages: dict[str, Path], small: Path):
        outcome = milpasses_command(
            "compare", digits_packages["iOS18"], small, "--samples", 2, "--per-op", "--json"
        )
        content = json.loads(outcome.out)
        assert outcome.status == 0
        assert (content["samples"], content["random"], content["misses"]) == (2, True, [])
        assert {op["own_snr_db"] for op in content["ops"]} > {"inf"}
        assert content["a"] == str(digits_packages["iOS18"])

    def test_ends_with_status_1_where_a_limit_is_not_kept(
        self, milpasses_command: Run, digits_packages: dict[str, Path], small: Path
    ):
        models = digits_packages["iOS18"], small
        outcome = milpasses_command(
            "compare", *models, "--samples", 2, "--min-snr", "scores=80", "--max-error", 9
        )
        assert outcome.status == 1
        assert outcome.err == ""
        missed = [line for line in outcome.out.splitlines() if line.startswith("missed:")]
        assert len(missed) == 1
        assert missed[0].startswith("missed: scores: snr_db ")
        outcome = milpasses_command("compare", *models, "--samples", 2, "--min-snr", 80, "--json")
        assert outcome.status == 1
        assert len(json.loads(outcome.out)["misses"]) == 1

    @pytest.mark.parametrize(
        ("options", "expected"),
        [
            (["--min-snr", "high"], "--min-snr takes a number, or OUTPUT=number; got 'high'"),
            (["--min-snr", "bogus=3"], "no output bogus that has a snr_db; there are scores"),
            (["--data", "nowhere"], "nowhere: no such file or folder; data is"),
            (["--runtime", "bogus"], "'reference', 'coreml'"),
            (["--samples", "0"], "Invalid value for '--samples'"),
            (["--csv", "nowhere/x.csv"], "the folder for the CSV file does not exist"),
            (["--function", "bogus"], "no function 'bogus'; the program has main"),
        ],
    )
    def test_ends_with_status_2_and_one_line_where_it_cannot_be_done(
        self, milpasses_command: Run, digits_packages: dict[str, Path], options: list[str], expected: str
    ):
        path = digits_packages["iOS18"]
        outcome = milpasses_command("compare", path, path, "--samples", 1, *options)
        assert outcome.status == 2
        assert outcome.out == ""
        assert outcome.err.count("\n") == 1
        assert expected in outcome.err

    def test_lists_what_has_no_partner(self, capsys: pytest.CaptureFixture[str]):
        a, b = scaled(1), program(lambda x: mb.relu(x=mb.mul(x=x, y=2.0, name="product"), name="out"), (1, 4))
        found = compare(a, b, [{"x": [[1.0, np.nan, 0.0, 0.0]]}], per_op=True)
        print_comparison(found, 5)
        lines = capsys.readouterr().out.splitlines()
        assert "1 ops of a alone: out" in lines
        assert "1 ops of b alone: out" in lines
        assert "model a: first nan in product of mul product, sample item[0]" in lines
        assert "on 1 sample of an iterable" in lines

    def test_missing_models(self, milpasses_command: Run):
        outcome = milpasses_command("compare", "nowhere.mlpackage", "nowhere.mlpackage")
        assert (outcome.status, outcome.out) == (2, "")
        assert "no such package: nowhere.mlpackage" in outcome.err
