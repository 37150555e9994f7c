"""Folders of images as inputs: labels, scaling, layouts, and what each kind of bad file says."""

import sys
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from features import image, tensor

from milpasses.data.samples import Samples
from milpasses.errors import SampleError
from milpasses.interpreter import Feature, Interpreter

RNG = np.random.default_rng(5)


def save(path: Path, pixels: Any, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pytest.importorskip("PIL.Image").fromarray(np.asarray(pixels, np.uint8)).save(path, **options)
    return path


class TestImageFolders:
    def test_class_folders_give_labels_and_take_turns(self, tmp_path: Path):
        for name, level in (
            ("dog/1.png", 1),
            ("cat/9.png", 2),
            ("dog/2.PNG", 3),
            ("cat/8.png", 4),
            ("dog/3.png", 5),
        ):
            save(tmp_path / name, np.full((4, 5, 3), level))
        (tmp_path / "dog" / "notes.txt").write_text("no image")
        save(tmp_path / "dog" / ".hidden.png", np.zeros((4, 5, 3)))
        (tmp_path / ".git").mkdir()
        samples = Samples.of(tmp_path, image(4, 5))
        assert len(samples) == 5
        assert [(s.label, int(s.inputs["photo"][0, 0, 0])) for s in samples] == [
            ("cat", 4), ("dog", 1), ("cat", 2), ("dog", 3), ("dog", 5),
        ]  # fmt: skip
        assert next(iter(samples)).name == str(tmp_path / "cat" / "8.png")

    def test_files_in_the_folder_itself_have_no_label(self, tmp_path: Path):
        pixels = RNG.integers(0, 256, (4, 5, 3))
        save(tmp_path / "a.png", pixels)
        (sample,) = Samples.of(str(tmp_path), image(4, 5))
        assert sample.label is None
        np.testing.assert_array_equal(sample.inputs["photo"], pixels)

    def test_scaled_to_fill_and_cropped_around_the_centre(self, tmp_path: Path):
        wide = np.zeros((20, 60, 3))
        wide[:, :20], wide[:, 20:40], wide[:, 40:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
        save(tmp_path / "wide.png", wide)
        save(tmp_path / "tall.png", wide.transpose(1, 0, 2))
        for sample in Samples.of(tmp_path, image(10, 10)):
            pixels = sample.inputs["photo"]
            assert pixels.shape == (10, 10, 3)
            assert (pixels[1:-1, 1:-1] == (0, 255, 0)).all()  # the middle third alone

    def test_bilinear(self, tmp_path: Path):
        save(tmp_path / "a.png", [[0, 100], [0, 100]])
        (sample,) = Samples.of(
            tmp_path, image(2, 4, "GRAYSCALE")
        )  # twice as wide: the upper and lower half go
        np.testing.assert_array_equal(sample.inputs["photo"], [[0, 25, 75, 100]] * 2)

    def test_turned_upright(self, tmp_path: Path):
        exif = pytest.importorskip("PIL.Image").Exif()
        exif[0x0112] = 6  # rotated by a quarter to the right when shown
        pixels = np.arange(12).reshape(3, 4) * 20
        save(tmp_path / "a.png", pixels, exif=exif)
        (sample,) = Samples.of(tmp_path, image(4, 3, "GRAYSCALE"))
        np.testing.assert_array_equal(sample.inputs["photo"], np.rot90(pixels, -1))

    def test_a_free_size_keeps_the_images_own(self, tmp_path: Path):
        save(tmp_path / "a.png", np.zeros((6, 9, 3)))
        (sample,) = Samples.of(tmp_path, image(None, None))
        assert sample.inputs["photo"].shape == (6, 9, 3)
        with pytest.raises(SampleError, match="leaves one side of the image free"):
            Samples.of(tmp_path, image(None, 4))

    def test_a_float_tensor_gets_planes_from_0_to_1(self, tmp_path: Path):
        pixels = RNG.integers(0, 256, (4, 5, 3))
        save(tmp_path / "a.png", pixels)
        (sample,) = Samples.of(tmp_path, tensor(1, 3, 4, 5))
        np.testing.assert_allclose(sample.inputs["x"][0], pixels.transpose(2, 0, 1) / 255, rtol=1e-6)
        (sample,) = Samples.of(tmp_path, tensor(None, 1, 4, 5))
        luminance = pixels @ [0.299, 0.587, 0.114] / 255
        np.testing.assert_allclose(sample.inputs["x"][0, 0], luminance, atol=0.003)

    def test_bgr_models_get_their_order(self, tmp_path: Path):
        @mb.program(input_specs=[mb.TensorSpec(shape=(1, 3, 4, 5))], opset_version=ct.target.iOS17)
        def program(photo: Any) -> Any:
            return mb.mul(x=photo, y=1.0)

        inputs = [ct.ImageType(name="photo", shape=(1, 3, 4, 5), color_layout=ct.colorlayout.BGR)]
        model = ct.convert(
            program, inputs=inputs, minimum_deployment_target=ct.target.iOS17, skip_model_load=True
        )
        pixels = RNG.integers(0, 256, (4, 5, 3))
        save(tmp_path / "a.png", pixels)
        interpreter = Interpreter(model)
        (sample,) = Samples.of(tmp_path, interpreter)
        (output,) = interpreter.run(sample.inputs).values()
        np.testing.assert_array_equal(output[0], pixels.transpose(2, 0, 1)[::-1])

    def test_problems_are_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        pytest.importorskip("PIL")
        folder = tmp_path / "d"
        folder.mkdir()
        with pytest.raises(SampleError, match=r"d: holds no image \(\.bmp"):
            Samples.of(folder, image(4, 5))
        (folder / "cat").mkdir()
        save(folder / "dog" / "1.png", np.zeros((4, 5, 3)))
        with pytest.raises(SampleError, match="cat: a class folder without an image"):
            Samples.of(folder, image(4, 5))
        save(folder / "cat" / "1.png", np.zeros((4, 5, 3)))
        save(folder / "stray.png", np.zeros((4, 5, 3)))
        with pytest.raises(
            SampleError, match=r"holds images \(stray\.png, \.\.\.\) beside class folders \(cat, "
        ):
            Samples.of(folder, image(4, 5))
        (folder / "stray.png").unlink()
        whole = save(folder / "dog" / "1.png", RNG.integers(0, 256, (40, 40, 3))).read_bytes()
        for content in (b"no image", whole[:40], whole[: len(whole) // 2]):
            (folder / "dog" / "1.png").write_bytes(content)
            with pytest.raises(SampleError, match=r"1\.png: cannot be read as an image"):
                list(Samples.of(folder, image(4, 5)))
        monkeypatch.setitem(sys.modules, "PIL", None)
        with pytest.raises(SampleError, match=r"needs Pillow: pip install 'milpasses\[images\]'"):
            Samples.of(folder, image(4, 5))

    @pytest.mark.parametrize(
        "features",
        [
            tensor(1, 4),
            tensor(1, 4, 4, 4),
            tensor(2, 3, 4, 4),
            tensor(1, 3, 4, 4, dtype=np.int32),
            {**image(4, 5), **tensor(1)},
            {**tensor(1, 3, 4, 4), **tensor(1, 3, 4, 4, name="y")},
        ],
    )
    def test_models_that_take_no_image(self, tmp_path: Path, features: dict[str, Feature]):
        save(tmp_path / "a.png", np.zeros((4, 5, 3)))
        with pytest.raises(SampleError, match="needs a model with one image input, or one float input"):
            Samples.of(tmp_path, features)
