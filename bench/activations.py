"""8-bit activations: what W8A8 and W4A8 lose with chosen ranges, and with min/max as coremltools has it.

    python -m bench.activations [digits] [transformer] [unequal] [food] [cost]

Nothing is measured on data that calibrated it. Min/max is that of coremltools with its last-sample bug
repaired: the smallest and the largest value of all calibration samples, with the same weights.
"""

import argparse
import logging
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from numpy.typing import NDArray

import milpasses as mp
from bench._tasks_measure import Hits, Task, lost
from bench.table import Table
from milpasses.activations.observed import observe
from milpasses.activations.quantize import wanted_points
from milpasses.activations.ranges import choose_ranges
from milpasses.interpreter import Interpreter
from milpasses.program.opening import open_program
from milpasses.recipe.recipe import Recipe

KINDS = ("weights", "minmax", "chosen", "equalized")
RECIPES = ("int8", "pal4-g16+int8")
NOTE = (
    "loss: points of accuracy against the float16 model, with the standard error of answers that flip. "
    "snr_db: of all outputs, on the samples that measure. minmax_: the same weights, with ranges from the "
    "smallest and largest calibration value; chosen_ and equalized_: without and with equalization."
)
Outputs = NDArray[np.float64]


def outputs(model: Any, inputs: Sequence[dict[str, Any]]) -> Outputs:
    """The first output of each run as numbers, of a classifier the probabilities."""
    run = Interpreter(model).run

    def numbers(found: dict[str, Any]) -> Any:
        values = [list(v.values()) if isinstance(v, dict) else v for v in found.values()]
        return next(np.asarray(v, np.float64) for v in values if np.asarray(v).dtype.kind == "f")

    return np.stack([numbers(run(each)).reshape(-1) for each in inputs])


def snr_db(exact: Outputs, given: Outputs) -> float:
    """Power of the outputs over that of their change, in dB."""
    return 10 * math.log10((exact**2).sum() / max(((exact - given) ** 2).sum(), 1e-300))


def variants(
    model: Any,
    recipe: str,
    calibration: Sequence[dict[str, Any]],
    activations: str,
    statistics: Any = None,
    kinds: Sequence[str] = KINDS,
) -> dict[str, Any]:
    """The model with compressed weights, and with 8-bit activations: ranges by min/max, and chosen."""
    statistics = statistics or mp.statistics(model, calibration, full=True, held_out=4)
    plain = attrs.evolve(statistics, histograms={}, held_out_histograms={})
    text = f"{recipe} + {activations}"
    make: dict[str, Callable[[], Any]] = {
        "weights": lambda: mp.compress(model, recipe, statistics=statistics),
        "minmax": lambda: mp.compress(model, text, statistics=plain),
        "chosen": lambda: mp.compress(model, text, calibration=calibration, equalize=False),
        "equalized": lambda: mp.compress(model, text, calibration=calibration),
    }
    return {kind: make[kind]() for kind in kinds}


def row(
    table: Table,
    name: str,
    measure: Callable[[Any], tuple[Hits, Outputs]],
    exact: tuple[Hits, Outputs],
    models: dict[str, Any],
) -> None:
    """One recipe: what its weights alone lose, and with both kinds of ranges."""
    values: dict[str, Any] = {}
    for kind, model in models.items():
        hits, given = measure(model)
        loss, error = lost(exact[0], hits)
        values |= {f"{kind}_loss": f"{loss:.2f} +- {error:.2f}", f"{kind}_snr_db": snr_db(exact[1], given)}
    table.add(recipe=name, answers=len(exact[0]), **values)


def task_table(title: str, task: Task, measured: Sequence[dict[str, Any]]) -> Table:
    """A small network: its task's answers, and its outputs on the same inputs."""
    table = Table(title, f"{len(task.calibration)} samples calibrate, {len(measured)} others count. {NOTE}")

    def measure(model: Any) -> tuple[Hits, Outputs]:
        return task.hits(model), outputs(model, measured)

    exact = measure(task.model)
    for recipe in RECIPES:
        for activations in ("a8", "a8-asym"):
            models = variants(task.model, recipe, task.calibration, activations)
            row(table, f"{recipe} + {activations}", measure, exact, models)
    return table


def digits() -> Table:
    """The demo's network for handwritten digits."""
    from milpasses_tools import digits as data

    from bench._tasks_small import digits_task

    task = digits_task()
    return task_table("Digits", task, [{data.INPUT: image[None]} for image in data.load().images])


def transformer() -> Table:
    """The language model of characters."""
    from bench._tasks_small import measured_windows, transformer_task

    task = transformer_task()
    return task_table("Transformer", task, measured_windows())


def unequal() -> Table:
    """A MobileNet of digits with channels of unequal ranges."""
    from bench._tasks_unequal import unequal_task

    task, measured = unequal_task()
    return task_table("Unequal channels", task, measured)


def food() -> Table:
    """The SqueezeNet of 101 dishes, cross-fitted over all photos."""
    from bench import _tasks_food as photos

    table = Table("Food photos", f"Both folds: each photo counts once. {NOTE}")
    found = photos.folder()
    if found is None:
        table.note = "Left out: no folder with food.mlmodel and photos/ (FOOD names it)."
        return table
    with photos.work_folder() as work:
        data = photos.Food.load(found, Path(work))
        for recipe in RECIPES:
            for activations in ("a8", "a8-asym"):
                folds = [
                    variants(
                        data.model, recipe, data.seen(fold), activations, data.statistics[fold],
                        ("minmax", "equalized"),
                    )
                    for fold in range(2)
                ]  # fmt: skip
                values: dict[str, Any] = {}
                for kind in folds[0]:
                    given = np.zeros_like(data.before)
                    for (_, others), models in zip(data.folds, folds, strict=True):
                        given[others] = photos.probabilities(models[kind], [data.photos[i] for i in others])
                    hits = data.names[given.argmax(axis=1)] == data.labels
                    loss, error = lost(data.right, hits)
                    values |= {
                        f"{kind}_loss": f"{loss:.2f} +- {error:.2f}",
                        f"{kind}_snr_db": snr_db(data.before, given),
                    }
                table.add(recipe=f"{recipe} + {activations}", answers=len(data.labels), **values)
    return table


def cost() -> Table:
    """Time and memory of the ranges of a ResNet50 over 32 images."""
    from bench.models import package

    table = Table("Ranges of ResNet50 over 32 images", "cpu_s: processor seconds, all threads.")
    path = package("resnet50")
    program = open_program(path)
    images = np.random.default_rng(0).standard_normal((32, 1, 3, 224, 224), np.float32)
    points = wanted_points(Recipe.of("keep + a8"), program.functions[0])
    tensors = {name for point, _ in points for name in point.tensors}
    start, wall = time.process_time(), time.perf_counter()
    observed = observe(Interpreter(program), [{"image": image} for image in images], tensors)
    counted = time.process_time() - start
    found = choose_ranges(observed, points)
    table.add(
        cpu_s=time.process_time() - start,
        counting_cpu_s=counted,
        wall_s=time.perf_counter() - wall,
        tensors=len(observed.fit),
        histogram_bytes=sum(
            each.counts.nbytes for part in (observed.fit, observed.others) for each in part.values()
        ),
        output_sqnr_db=found.output_sqnr_db,
        minmax_db=found.methods["minmax"],
    )
    return table


SECTIONS: dict[str, Callable[[], Table]] = {
    "digits": digits,
    "transformer": transformer,
    "unequal": unequal,
    "food": food,
    "cost": cost,
}


def main() -> None:
    """Print the tables that were asked for, as Markdown."""
    parser = argparse.ArgumentParser(prog="python -m bench.activations", description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    logging.getLogger("coremltools").setLevel(logging.ERROR)
    for name in parser.parse_args().sections or SECTIONS:
        print(SECTIONS[name]().markdown(), flush=True)


if __name__ == "__main__":
    main()
