"""Accuracy on real tasks after compression with and without data, and coremltools' own beside it.

    python -m bench.tasks [digits] [transformer] [food] [--food FOLDER]

Nothing is measured on data that calibrated it. A loss is in points of accuracy, against the float16 model in
milpasses' interpreter; its standard error counts the answers that flip.
"""

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

from bench import _tasks_food as photos
from bench._tasks_measure import compare
from bench.table import Table

BITS = 3.0
SCHEMES = ("pal1", "pal2-gptq", "pal2-g16-gptq", "pal3-gptq", "pal3-g16-gptq", "pal4-gptq", "pal4-g16-gptq",
           "pal6-gptq", "pal8-gptq", "pal4-v2-gptq", "pal6-v2-gptq")  # fmt: skip
NOTE = (
    "bits: all bytes of the weight file, over the elements of matrices and kernels. plain_loss: the same "
    "without data; coremltools_loss: its data-free function with the same settings. Points of accuracy."
)


def digits() -> Table:
    """The demo's network for handwritten digits."""
    from bench._tasks_small import digits_task

    task = digits_task()
    table = Table(
        "Digits", f"{len(task.calibration)} images of the training set calibrate, 360 others count. {NOTE}"
    )
    compare(table, task, ("pal2-g16-gptq", "pal3-g16-gptq", "sparse50-obs+pal4-gptq"), SCHEMES, BITS)
    return table


def transformer() -> Table:
    """A language model of characters, trained on Python's manual."""
    from bench._tasks_small import transformer_task

    task = transformer_task()
    text = f"{len(task.calibration)} windows of its own text calibrate, as many of other topics count."
    table = Table("Transformer", f"{text} {NOTE}")
    recipes = ("pal3-g16-gptq", "pal6-v2-gptq", "sparse50-obs+pal4-gptq", "int4-b32-gptq", "pal4-g16-gptq")
    compare(table, task, recipes, SCHEMES, BITS)
    return table


def food(source: "str | os.PathLike[str] | None" = None) -> Table:
    """A SqueezeNet of 101 dishes, in a package of at most 500,000 bytes."""
    table = Table(
        "Food photos",
        f"{photos.CALIBRATED} unlabelled photos of each class calibrate, the others are measured; then the "
        "other way round, so that each of the photos counts once. Chosen: in each fold what diverges least "
        f"on the photos that calibrated it, within {photos.LIMIT:,} bytes. Probability: of a photo's own "
        "class, in points, with its standard error; it says more than answers that flip.",
    )
    found = photos.folder(source)
    if found is None:
        table.note = "Left out: no folder with food.mlmodel and photos/ (FOOD names it)."
        return table
    with photos.work_folder() as work:
        data = photos.Food.load(found, Path(work))
        size = photos.file_bytes(data.model, "*")
        float16 = [photos.Fold(size, 0.0, data.right[o], data.sure[o]) for _, o in data.folds]
        table.add(**photos.row(data, "float16", float16))
        results: dict[str, list[photos.Fold]] = {}
        for name, make in photos.ROWS.items():
            results[name] = photos.measured(data, make)
            table.add(**photos.row(data, name, results[name]))
        name, best = photos.chosen(results, photos.LIMIT)
        table.add(**photos.row(data, f"chosen: {name}", best))
    return table


SECTIONS: dict[str, Callable[[], Table]] = {"digits": digits, "transformer": transformer, "food": food}


def main() -> None:
    """Print the tables that were asked for, as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.tasks", description=__doc__)
    parser.add_argument("tasks", nargs="*", metavar="task", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--food", type=Path, help="the folder with food.mlmodel and photos/")
    options = parser.parse_args()
    unknown = [name for name in options.tasks if name not in SECTIONS]
    if unknown:
        parser.error(f"no task {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    if options.food is not None:
        os.environ["FOOD"] = str(options.food)
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    for name in options.tasks or SECTIONS:
        print(SECTIONS[name]().markdown(), flush=True)


if __name__ == "__main__":
    main()
