"""Inputs from files, images, functions and chance: what they become, and what each kind of bad input says."""

import sys
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from features import image, tensor

from milpasses.data.samples import Sample, Samples, model_inputs
from milpasses.errors import MilpassesError, SampleError
from milpasses.interpreter import Feature, Interpreter

RNG = np.random.default_rng(5)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def some_samples() -> Any:
    yield {"x": draw(2)}
    yield {"x": draw(2)}, 7


class TestArrays:
    def test_first_axis_holds_the_samples(self, tmp_path: Path):
        x, y = draw(3, 2, 4), np.arange(3, dtype=np.int32)[:, None]
        np.savez(tmp_path / "d.npz", x=x, y=y, labels=[4, 5, 6])
        features = {**tensor(2, 4), **tensor(1, dtype=np.int32, name="y")}
        samples = Samples.of(tmp_path / "d.npz", features)
        assert len(samples) == samples.count == 3
        assert not samples.random
        for index, sample in enumerate(samples):
            np.testing.assert_array_equal(sample.inputs["x"], x[index])
            np.testing.assert_array_equal(sample.inputs["y"], y[index])
            assert sample.label == 4 + index
            assert sample.name == f"{tmp_path / 'd.npz'}[{index}]"

    def test_rows_are_samples_where_the_first_size_is_one(self):
        x = draw(5, 4)
        samples = list(Samples.of({"x": x, "labels": list("abcde")}, tensor(1, 4)))
        assert [sample.label for sample in samples] == list("abcde")
        np.testing.assert_array_equal(np.concatenate([s.inputs["x"] for s in samples]), x)
        assert samples[0].inputs["x"].shape == (1, 4)

    @pytest.mark.parametrize("first", [3, None])
    def test_else_an_array_of_the_inputs_rank_is_one_sample(self, first: int | None):
        (sample,) = Samples.of({"x": draw(3, 4), "labels": [1, 0, 2]}, tensor(first, 4))
        assert sample.inputs["x"].shape == (3, 4)
        assert sample.label == (1, 0, 2)  # a batch: a label for each row

    def test_labels_of_batches(self):
        labels = np.array([["a", "b"], ["c", "d"]])
        samples = Samples.of({"x": draw(2, 2, 4), "labels": labels}, tensor(2, 4))
        assert [sample.label for sample in samples] == [("a", "b"), ("c", "d")]

    def test_an_input_may_be_called_labels(self):
        (sample,) = Samples.of({"labels": draw(1, 4)}, tensor(1, 4, name="labels"))
        assert sample.label is None

    def test_images(self):
        pixels = RNG.integers(0, 256, (3, 4, 5, 3)).astype(np.uint8)
        assert len(Samples.of({"photo": pixels}, image(4, 5))) == 3
        (sample,) = Samples.of({"photo": pixels[0]}, image(4, 5))
        np.testing.assert_array_equal(sample.inputs["photo"], pixels[0])
        assert len(list(Samples.of({"photo": pixels[..., 0]}, image(4, 5, "GRAYSCALE")))) == 3

    def test_limit(self):
        samples = Samples.of({"x": draw(5, 4)}, tensor(1, 4), limit=2)
        assert len(samples) == len(list(samples)) == 2
        assert len(Samples.of(samples, tensor(1, 4))) == 2
        assert len(Samples.of(samples, tensor(1, 4), limit=4)) == 4
        with pytest.raises(SampleError, match="at least 1, got 0"):
            Samples.of({"x": draw(5, 4)}, tensor(1, 4), limit=0)

    def test_those_that_statistics_hold_out(self):
        rows = [{"x": np.full((2, 2), index, np.float32)} for index in range(10)]
        for data in (rows, lambda: iter(rows)):
            samples = Samples.of(data, tensor(2, 2), limit=7)
            kept = samples.apart(3)
            assert [float(one.inputs["x"][0, 0]) for one in kept] == [1, 4]
            assert kept.count == (2 if data is rows else None)
            assert "1 in 3 of" in kept.description
            assert len(list(Samples.of(kept, kept.features, limit=1))) == 1

    def test_optional_inputs_may_be_left_out(self):
        features = {**tensor(1, 4), **tensor(1, name="scale", default=2.0)}
        assert len(list(Samples.of({"x": draw(2, 4)}, features))) == 2

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            ({"y": draw(2, 4)}, "x missing; y unknown; the model's inputs are x, n"),
            ({"x": draw(2, 4), "n": [[1], [2]], "z": [1]}, "z unknown"),
            ({"x": draw(2, 4), "n": [[1], [2], [3]]}, "differ in their number of samples: 2 of x, 3 of n"),
            (
                {"x": draw(2), "n": [[1]]},
                r"x must have the shape \(samples, 1, 4\) or, for one sample, \(1, 4\); got \(2,\)",
            ),
            (
                {"x": draw(2, 4), "n": [[1], [2]], "labels": [1.0, 2.0]},
                "labels must be integers or texts, got float64",
            ),
            (
                {"x": draw(2, 4), "n": [[1], [2]], "labels": [1, 2, 3]},
                r"2 samples need 2 labels, got labels of shape \(3,\)",
            ),
        ],
    )
    def test_what_does_not_fit_is_said_at_once(self, arrays: dict[str, Any], message: str):
        features = {**tensor(1, 4), **tensor(1, dtype=np.int32, name="n")}
        with pytest.raises(SampleError, match=message):
            Samples.of(arrays, features)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (draw(2, 1, 5), r"the arrays\[0\]: input 'x' must have shape \(1, 4\), got \(1, 5\)"),
            (np.array([["a", "b", "c", "d"]]), "must be float32, got an array of <U1"),
        ],
    )
    def test_a_wrong_sample_is_named(self, array: Any, message: str):
        with pytest.raises(SampleError, match=message):
            next(iter(Samples.of({"x": array}, tensor(1, 4))))

    def test_states_are_no_inputs(self):
        features = {**tensor(1, 4), "cache": Feature("cache", "state", np.float16, (1, 4))}
        samples = Samples.of({"x": draw(2, 4)}, features)
        assert list(samples.features) == ["x"]
        assert len(list(samples)) == 2
        assert set(next(iter(Samples.of("random", features))).inputs) == {"x"}


class TestFiles:
    def test_no_such_file(self):
        with pytest.raises(
            SampleError, match=r"nowhere\.npz: no such file or folder; data is an \.npz file, a folder"
        ):
            Samples.of("nowhere.npz", tensor(1))

    @pytest.mark.parametrize("kind", ["text", "pickle", "npy", "truncated"])
    def test_no_npz(self, tmp_path: Path, kind: str):
        path = tmp_path / "d.npz"
        if kind == "text":
            path.write_text("x,y\n1,2\n")
        elif kind == "pickle":
            np.savez(path, x=np.array([{"a": 1}], object))
        elif kind == "npy":
            with path.open("wb") as file:
                np.save(file, draw(3))
        else:
            np.savez(path, x=draw(300))
            path.write_bytes(path.read_bytes()[:200])
        with pytest.raises(SampleError, match=r"d\.npz: (cannot be read|holds one array)"):
            Samples.of(path, tensor(1))

    def test_of_no_known_kind(self):
        with pytest.raises(SampleError, match="got int"):
            Samples.of(3, tensor(1))


class TestFunctions:
    def test_a_callable_is_called_for_each_pass(self):
        samples = Samples.of(some_samples, tensor(2))
        assert samples.count is None
        with pytest.raises(TypeError, match="not known"):
            len(samples)
        for _ in range(2):
            assert [sample.label for sample in samples] == [None, 7]
        assert [sample.name for sample in samples] == ["some_samples[0]", "some_samples[1]"]
        assert len(list(Samples.of(some_samples, tensor(2), limit=1))) == 1

    def test_by_name_in_the_current_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        (tmp_path / "my_inputs.py").write_text(
            "class Many:\n    @staticmethod\n    def few():\n        return [{'x': [1.0, 2.0]}]\nnumber = 3\n"
        )
        (tmp_path / "my_broken.py").write_text("1 / 0\n")
        monkeypatch.chdir(tmp_path)
        before = list(sys.path)
        (sample,) = Samples.of("my_inputs:Many.few", tensor(2))
        assert sample.inputs == {"x": [1.0, 2.0]}
        assert sample.name == "my_inputs:Many.few[0]"
        for name, message in (
            ("my_inputs:number", "is no function but int"),
            ("my_inputs:other", "cannot be imported: AttributeError"),
            ("my_broken:other", "cannot be imported: ZeroDivisionError"),
            ("my_absent:other", "cannot be imported: ModuleNotFoundError"),
        ):
            with pytest.raises(SampleError, match=message):
                Samples.of(name, tensor(2))
        assert sys.path == before
        for name in ("my_inputs", "my_broken"):
            sys.modules.pop(name, None)

    def test_what_it_may_yield(self):
        given = [
            Sample({"x": draw(2)}, "cat", "mine"),
            Sample({"x": draw(2)}),
            ({"x": draw(2)}, np.int64(3)),
            ({"x": draw(2)}, np.array([3, 4])),
        ]
        samples = list(Samples.of(given, tensor(2)))
        assert [(s.label, s.name) for s in samples] == [
            ("cat", "mine"), (None, "item[1]"), (3, "item[2]"), ((3, 4), "item[3]"),
        ]  # fmt: skip
        assert type(samples[2].label) is int

    @pytest.mark.parametrize(
        ("items", "message"),
        [
            ([draw(2)], r"item\[0\]: must be a mapping from input names to arrays.*got ndarray"),
            ([{"x": draw(2)}, {"z": draw(2)}], r"item\[1\]: missing x; unknown z"),
            ([{"x": draw(3)}], r"item\[0\]: input 'x' must have shape \(2\)"),
            ([{"x": [[1], [1, 2]]}], r"item\[0\]: "),
            ([], "an iterable: there is no sample"),
        ],
    )
    def test_what_it_may_not(self, items: Any, message: str):
        with pytest.raises(SampleError, match=message):
            list(Samples.of(items, tensor(2)))

    def test_its_own_failure_is_one_line(self):
        def broken() -> Any:
            yield {"x": draw(2)}
            raise RuntimeError("disk on fire")

        with pytest.raises(SampleError, match="broken failed: RuntimeError: disk on fire"):
            list(Samples.of(broken, tensor(2)))


class TestRandom:
    FEATURES = {  # noqa: RUF012
        **tensor(1, 400),
        **tensor(2, None, dtype=np.int32, name="ids", ranges=((2, 2), (3, 9))),
        **tensor(1, 3, dtype=np.float16, name="free", allowed=((1, 3), (1, 5))),
        **image(4, 5),
    }

    def test_has_the_declared_shapes_and_says_so(self):
        samples = Samples.of("random", self.FEATURES, seed=3)
        assert samples.random
        assert samples.description == "random data, seed 3"
        assert len(samples) == len(list(samples)) == 8
        first = next(iter(samples)).inputs
        assert {name: value.shape for name, value in first.items()} == {
            "x": (1, 400), "ids": (2, 3), "free": (1, 3), "photo": (4, 5, 3),
        }  # fmt: skip
        assert abs(first["x"].mean()) < 0.2
        assert 0.8 < first["x"].std() < 1.2
        assert set(np.unique(first["ids"])) <= {0, 1}
        assert first["photo"].dtype == np.uint8

    def test_repeats_with_its_seed_whatever_the_number(self):
        three, five = (list(Samples.of("random", self.FEATURES, limit=n, seed=1)) for n in (3, 5))
        for one, other in zip(three, five, strict=False):
            for name, value in one.inputs.items():
                np.testing.assert_array_equal(value, other.inputs[name])
        other = next(iter(Samples.of("random", self.FEATURES, seed=2)))
        assert not np.array_equal(other.inputs["x"], three[0].inputs["x"])
        assert not np.array_equal(three[1].inputs["x"], three[0].inputs["x"])


def test_inputs_of_models(tmp_path: Path):
    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 4), dtype=types.fp32)], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        return mb.mul(x=x, y=2.0)

    for model in (program, Interpreter(program)):
        assert model_inputs(model)["x"].shape == (1, 4)
        assert len(list(Samples.of({"x": draw(3, 4)}, model))) == 3
    assert issubclass(SampleError, MilpassesError)
    assert repr(Samples.of("random", program)) == "Samples(random data, seed 0)"
