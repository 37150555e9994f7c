"""``milpasses demo``: what each recipe does to a small network for handwritten digits."""

import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import attrs
import typer

from milpasses_tools._options import Json
from milpasses_tools._output import json_decibels, print_json, sqnr_text
from milpasses_tools._progress import Progress, progress
from milpasses_tools._table import print_table

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from milpasses_tools.digits import Digits
    from milpasses_tools.sweep import Sweep

RECIPES = (
    "int8",
    "int4",
    "int4-b32",
    "pal8",
    "pal6",
    "pal4",
    "pal4-g16",
    "pal3",
    "pal2",
    "sparse50",
    "sparse50+int8",
    "sparse50+pal4",
)
SAVED = "pal4-g16"
SWEPT = ("int8", "pal4", "pal4-g16", "pal3", "pal2", "pal2-gptq")
SWEPT_IMAGES = 120
IMAGES = "digits.npz"
_SWEEP = "sweep"
_MARK = "milpasses.demo"  # the metadata key by which the demo knows its own packages


@attrs.frozen
class Trial:
    """What one recipe gives: all weights' bytes, bits an element, how many times smaller than float16.

    The signal-to-noise ratios are those of the compressed weights, all of them together and the worst, in dB.
    ``accuracy`` is the share of the held-out images that the network still reads right.
    """

    recipe: str
    weight_bytes: int
    bits: float
    ratio: float
    accuracy: float
    sqnr_db: float | None = None
    worst_sqnr_db: float | None = None


@attrs.frozen
class Demo:
    """The trials, the uncompressed network first; how many images they saw; what was saved.

    ``saved``: a compressed package; ``sweep``: the sweep that ends the demo, with its folder.
    """

    trials: tuple[Trial, ...]
    images: int
    saved: Path | None = None
    sweep: "Sweep | None" = None

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain values for JSON."""
        trials = [
            {
                **attrs.asdict(trial),
                "sqnr_db": json_decibels(trial.sqnr_db),
                "worst_sqnr_db": json_decibels(trial.worst_sqnr_db),
            }
            for trial in self.trials
        ]
        return {
            "images": self.images,
            "saved": str(self.saved) if self.saved else None,
            "trials": trials,
            "sweep": None if self.sweep is None else self.sweep.to_dict(),
        }


def demo(
    folder: Path | None = None,
    recipes: Sequence[str] = RECIPES,
    progress: Progress | None = None,
    swept: Sequence[str] = SWEPT,
) -> Demo:
    """Convert the digits network once with each recipe, and measure size, error and accuracy.

    Compression happens inside ``ct.convert``, by ``milpasses.pipeline(recipe)``. Accuracy is what
    ``milpasses.interpreter`` gives on the 360 held-out images: a float32 reference, not Core ML itself. With
    ``folder`` the network is saved there, as it is and compressed with ``pal4-g16``, 120 of the images as
    ``digits.npz``, and the network swept with ``swept`` on these, a fifth of them set aside for the recipes
    that tune on data: the report is in ``sweep``. Only what a demo saved is replaced.
    ``progress(done, total, recipe)`` is called before each conversion, and as variants are measured.
    """
    import milpasses
    from milpasses.program.files import whole_file
    from milpasses_tools import digits

    data = digits.load()
    few = digits.Digits(data.images[:SWEPT_IMAGES], data.labels[:SWEPT_IMAGES])
    if folder is not None:
        _check_folder(folder, few)
    base = _convert(len(data.images))
    before = _dense_weights(base)
    trials = [_trial("none", base, before, before, data)]
    for done, recipe in enumerate(recipes):
        if progress is not None:
            progress(done, len(recipes), recipe)
        model = _convert(len(data.images), milpasses.pipeline(recipe))
        trials.append(_trial(recipe, model, before, _dense_weights(model), data))
    if folder is None:
        return Demo(tuple(trials), len(data.images))
    original, saved = _outputs(folder)
    _save(digits.convert(), original)
    _save(digits.convert(milpasses.pipeline(SAVED)), saved)
    with whole_file(folder / IMAGES, force=True) as file:
        file.write(_npz(few))
    return Demo(tuple(trials), len(data.images), saved, _sweep(original, folder, swept, few, progress))


def _sweep(
    model: Path, folder: Path, recipes: Sequence[str], data: "Digits", progress: Progress | None
) -> "Sweep":
    from milpasses.data.samples import Sample, Samples, model_inputs
    from milpasses_tools import digits
    from milpasses_tools.sweep import sweep

    rows = [
        Sample({digits.INPUT: image[None]}, int(label), f"digit {index}")
        for index, (image, label) in enumerate(zip(data.images, data.labels, strict=True))
    ]
    samples = Samples(lambda: rows, model_inputs(model), "handwritten digits", len(rows))
    return sweep(model, folder / _SWEEP, recipes, samples, force=True, progress=progress)


def _convert(batch: int, pass_pipeline: Any = None) -> Any:
    """The network for all images at once: the interpreter then needs one run."""
    import coremltools as ct

    from milpasses_tools import digits

    return ct.convert(
        digits.program("iOS18", batch),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target.iOS18,
        pass_pipeline=pass_pipeline,
        skip_model_load=True,
    )


def _dense_weights(model: Any) -> "list[tuple[bool, NDArray[np.float64]]]":
    """Each weight as the model computes with it, in program order, and whether it is compressed."""
    from milpasses.program.opening import open_program

    program = open_program(model)
    return [(site.existing is not None, site.weight.value.astype("float64")) for site in program.sites()]


def _trial(
    recipe: str,
    model: Any,
    before: "list[tuple[bool, NDArray[np.float64]]]",
    after: "list[tuple[bool, NDArray[np.float64]]]",
    data: "Digits",
) -> Trial:
    from milpasses.report import decibels
    from milpasses_tools.explain import explain

    nbytes = explain(model).weight_bytes
    size = sum(value.size for _, value in before)
    pairs = [
        (float((old**2).sum()), float(((old - new) ** 2).sum()))
        for (_, old), (compressed, new) in zip(before, after, strict=True)
        if compressed
    ]
    signal, noise = (sum(column) for column in zip(*pairs, strict=True)) if pairs else (0.0, 0.0)
    return Trial(
        recipe,
        nbytes,
        bits=round(8 * nbytes / size, 3),
        ratio=round(2 * size / nbytes, 3),
        accuracy=_accuracy(model, data),
        sqnr_db=round(decibels(signal, noise), 2) if pairs else None,
        worst_sqnr_db=min((round(decibels(*pair), 2) for pair in pairs), default=None),
    )


def _accuracy(model: Any, data: "Digits") -> float:
    from milpasses.interpreter import Interpreter
    from milpasses_tools import digits

    scores = Interpreter(model).run({digits.INPUT: data.images})[digits.OUTPUT]
    return float((scores.argmax(axis=1) == data.labels).mean())


def _outputs(folder: Path) -> tuple[Path, Path]:
    """The network as it is, and compressed."""
    return folder / "digits.mlpackage", folder / f"digits-{SAVED}.mlpackage"


def _npz(data: "Digits") -> bytes:
    """The images and their labels, as ``--data`` takes them; the same bytes each time."""
    import numpy as np

    file = io.BytesIO()
    np.savez(file, image=data.images, labels=data.labels)  # the input is called so
    return file.getvalue()


def _check_folder(folder: Path, images: "Digits") -> None:
    """Refuse, before any work, to replace what is not the demo's own."""
    from milpasses.program.files import check_files
    from milpasses_tools._sweep.store import Store

    folder.mkdir(parents=True, exist_ok=True)
    for output in _outputs(folder):
        _check_package(output)
    own = folder / IMAGES
    if os.path.lexists(own) and not (own.is_file() and own.read_bytes() == _npz(images)):
        raise _foreign(own)
    check_files([own], force=True)
    Store(folder / _SWEEP).check(again=True)


def _check_package(output: Path) -> None:
    from milpasses.errors import MilpassesError
    from milpasses.program.package import check_output, open_package

    if output.exists():
        try:
            own = _MARK in open_package(output).spec.description.metadata.userDefined
        except MilpassesError:
            own = False
        if not own:
            raise _foreign(output)
    check_output(output, force=True)


def _foreign(output: Path) -> Exception:
    from milpasses.errors import PackageError

    return PackageError(f"{output}: exists already, and no demo wrote it; name another folder with -o")


def _save(model: Any, output: Path) -> None:
    """Write ``model`` to ``output``, all of it or nothing, with the mark of the demo."""
    from milpasses.program.opening import open_program
    from milpasses.program.package import write_package

    package = open_program(model).package

    def copy_weights(model_folder: Path) -> Any:
        shutil.copytree(package.model_folder / "weights", model_folder / "weights", dirs_exist_ok=True)
        metadata = package.spec.description.metadata
        metadata.shortDescription = "Handwritten digits, 8x8, to ten scores: the network of milpasses demo"
        metadata.userDefined[_MARK] = "digits"
        return package.spec

    write_package(package, output, copy_weights, force=True)


def command(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="Where to save a compressed network.")
    ] = Path("milpasses-demo"),
    as_json: Json = False,
) -> None:
    """Show what each recipe does to a small network.

    Converts a network for handwritten digits once with each recipe, in ct.convert itself, and prints the
    bytes of its weights, their error, and how many of 360 images that it has never seen it still reads
    right. Ends with a small sweep, whose report.html is in DIR with the network, a compressed one, and
    digits.npz: images to try models on.
    """
    with progress("trying recipes", as_json) as step:
        result = demo(output, progress=step)
    if as_json:
        print_json(result.to_dict())
        return
    print_table(
        ["recipe", ">weight bytes", ">bits", ">times smaller", ">SQNR dB", ">worst", ">accuracy"],
        [
            (
                trial.recipe,
                trial.weight_bytes,
                trial.bits,
                trial.ratio,
                sqnr_text(trial.sqnr_db),
                sqnr_text(trial.worst_sqnr_db),
                f"{trial.accuracy:.1%}",
            )
            for trial in result.trials
        ],
    )
    print()
    print(
        f"accuracy: on {result.images} held-out images, by milpasses' interpreter "
        "(a float32 reference, not Core ML)"
    )
    print(f"saved: {result.saved} ({SAVED}); see milpasses explain {result.saved}")
    if result.saved is not None:
        original, images = _outputs(result.saved.parent)[0], result.saved.parent / IMAGES
        print(f"to go on with: {original} as it was, {images} ({SWEPT_IMAGES} images with labels)")
    if result.sweep is not None:
        from milpasses_tools._sweep.text import print_sweep

        print()
        print_sweep(result.sweep)
