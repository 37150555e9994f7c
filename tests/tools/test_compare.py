"""``compare`` on two models: outputs, classifiers, limits, and Core ML in place of the interpreter."""

import csv
import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from compare_programs import RNG, draw, program, scaled
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from milpasses_tools import compare
from milpasses_tools._compare import runners
from milpasses_tools.compare import Comparison, Miss, OutputError, accuracy

from milpasses.errors import MilpassesError
from milpasses.interpreter import Feature, Interpreter
from milpasses.interpreter.images import ImageFormat

INF = math.inf


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
        from milpasses_tools._compare.metrics import OutputSums

        with pytest.raises(MilpassesError, match="different classes"):
            OutputSums("p", "probabilities", 5).add({"a": 1.0}, {"b": 1.0})


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
        runner = runners.CoreML(model, {"photo": self.PHOTO, "ids": self.IDS}, ["painted", "label", "p"])
        outputs = runner.run({"photo": pixels, "ids": [1, 2]})
        ((given, options),) = model.calls
        assert options == {}
        assert given["photo"].mode == "RGB"
        np.testing.assert_array_equal(np.asarray(given["photo"]), pixels)
        assert given["ids"].dtype == np.int32
        np.testing.assert_array_equal(outputs.pop("painted"), pixels)
        assert outputs == {"label": "cat", "p": {"cat": 1.0}}
        with pytest.raises(MilpassesError, match="Core ML gave no output q; it gave painted"):
            runners.CoreML(model, {}, ["q"]).run({})

    def test_states(self):
        model = StandIn({"out": np.zeros(2)}, state="fresh")
        features = {"total": Feature("total", "state", np.float16, (2,))}
        runners.CoreML(model, features, ["out"]).run({})
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
            runner = runners.open_runner(path, function, "coreml")
            assert isinstance(runner, runners.CoreML)
            assert runner.model.opened == opened
            assert (list(runner.inputs), runner.output_names) == (["image"], ["scores"])

    def test_compares_its_outputs(self, monkeypatch: pytest.MonkeyPatch):
        made = iter([np.array([[1.0, 2.0]]), np.array([[1.0, np.nan]])])
        features = {"x": Feature("x", "tensor", np.float32, (1, 2))}

        def stand_in(*_: Any) -> Any:
            return runners.CoreML(StandIn({"out": next(made)}), features, ["out"])

        monkeypatch.setattr(runners, "open_runner", stand_in)
        found = compare("a", "b", runtime="coreml", samples=1)
        assert found.note == "by Core ML on this machine"
        assert [(n.model, n.value, n.output, n.op) for n in found.nonfinite] == [("b", "nan", "out", "")]
        assert str(found.nonfinite[0]) == "model b: first nan in out, sample random[0]"
        made = iter([np.zeros(1)] * 2)
        with pytest.raises(MilpassesError, match="per_op=True needs runtime=reference"):
            compare("a", "b", runtime="coreml", per_op=True)
