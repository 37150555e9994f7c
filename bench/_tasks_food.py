"""Photos of dishes: a published SqueezeNet, compressed with a few of the photos, measured on the others."""

import math
import os
import tempfile
from collections.abc import Callable, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import attrs
import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
from numpy.typing import NDArray

import milpasses as mp
from bench._tasks_measure import Hits, candidates, file_bytes, lost
from milpasses import budget
from milpasses.data.collect import Statistics
from milpasses.data.samples import Samples
from milpasses.interpreter import Interpreter
from milpasses.neuralnetwork import upgrade

DEFAULT = Path(__file__).parents[2] / "shared" / "data" / "food"
CALIBRATED = 20  # photos of each class
LIMIT = 500_000  # bytes of a package
MEAN = "data_mean_image*"
FINE = ("pal2-g16-gptq", "pal3-gptq", "pal3-g16-gptq", "pal3-g8-gptq", "pal4-gptq", "pal4-g16-gptq",
        "pal4-g8-gptq", "pal6-gptq", "pal6-g16-gptq")  # fmt: skip
VECTORS = ("pal6-v2-gptq", "pal8-v2-gptq")


def folder(given: "str | os.PathLike[str] | None" = None) -> Path | None:
    """Where the model and its photos are: as given, ``FOOD`` of the environment, or beside the project."""
    path = Path(given or os.environ.get("FOOD") or DEFAULT)
    return path if (path / "food.mlmodel").exists() and (path / "photos").is_dir() else None


def colours(nbits: int) -> mp.Palettize:
    """A table of ``2**nbits`` colours: one code for each pixel of the mean image, not three."""
    return mp.Palettize(nbits=nbits, channel_axis=1, cluster_dim=3)


def folds(labels: Sequence[str], calibrated: int = CALIBRATED) -> list[tuple[list[int], list[int]]]:
    """Two pairs (photos to calibrate with, photos to measure); every photo is measured once.

    In each class, in an order drawn once: the first ``calibrated`` and all others; then ``calibrated`` of
    the others and the first.
    """
    rng = np.random.default_rng(0)
    known = np.array(labels)
    orders = [rng.permutation(np.flatnonzero(known == one)) for one in sorted(set(labels))]

    def parts(begin: int, end: int | None) -> list[int]:
        return [int(place) for order in orders for place in order[begin:end]]

    return [
        (parts(0, calibrated), parts(calibrated, None)),
        (parts(calibrated, 2 * calibrated), parts(0, calibrated)),
    ]


def divergence(before: NDArray[Any], after: NDArray[Any]) -> float:
    """Mean Kullback-Leibler divergence of class probabilities from those ``before``, in nats."""
    p, q = (one.astype(np.float64) + 1e-7 for one in (before, after))
    return float((p * (np.log(p) - np.log(q))).sum(axis=1).mean())


@attrs.frozen(eq=False)
class Fold:
    """One model, as it does on one fold: its bytes, and of each photo whether it is right, and how surely.

    ``sure``: the probability of the photo's own class.
    """

    nbytes: int
    divergence: float
    hits: Hits
    sure: NDArray[Any]


@attrs.define(eq=False)
class Food:
    """The upgraded model in ``model``, its photos, and what it makes of them."""

    model: Path
    photos: list[Any]
    folds: list[tuple[list[int], list[int]]]
    statistics: list[Statistics]
    labels: NDArray[Any]
    names: NDArray[Any]
    before: NDArray[Any]

    @classmethod
    def load(cls, source: Path, work: Path) -> "Food":
        """Upgrade the model, run it on every photo, and take both folds' statistics."""
        model = work / "food.mlpackage"
        upgrade(source / "food.mlmodel", None, ct.target.iOS18, output=model)
        interpreter = Interpreter(model)
        photos = list(Samples.of(source / "photos", interpreter))
        labels = [str(one.label).replace("_", " ") for one in photos]
        parts = folds(labels)
        inputs = [one.inputs for one in photos]
        names = np.array([str(name) for name in interpreter.run(inputs[0])["prob"]])
        statistics = [
            mp.statistics(model, [inputs[place] for place in seen], full=True, held_out=4)
            for seen, _ in parts
        ]
        before = probabilities(model, inputs)
        return cls(model, inputs, parts, statistics, np.array(labels), names, before)

    @property
    def right(self) -> Hits:
        """The photos that the model, not compressed, gets right."""
        return self.names[self.before.argmax(axis=1)] == self.labels

    @property
    def sure(self) -> NDArray[Any]:
        """The probability that it gives each photo's own class."""
        return self.before[np.arange(len(self.labels)), self.own]

    @property
    def own(self) -> NDArray[Any]:
        """The number of each photo's own class."""
        return np.array([int(np.flatnonzero(self.names == label)[0]) for label in self.labels])

    def seen(self, fold: int) -> list[dict[str, Any]]:
        """The photos to calibrate with, in an order in which neighbours are of different classes."""
        order = np.random.default_rng(1).permutation(self.folds[fold][0])
        return [self.photos[place] for place in order]

    def measure(self, fold: int, model: Any) -> Fold:
        """Divergence on the photos that calibrated, answers on the others."""
        seen, others = self.folds[fold]
        after = probabilities(model, [self.photos[place] for place in [*seen, *others]])
        measured = after[len(seen) :]
        hits = self.names[measured.argmax(axis=1)] == self.labels[others]
        sure = measured[np.arange(len(others)), self.own[others]]
        return Fold(file_bytes(model, "*"), divergence(self.before[seen], after[: len(seen)]), hits, sure)

    def joined(self, found: Sequence[Fold]) -> tuple[Hits, NDArray[Any]]:
        """The folds' answers in the order of the photos, and how sure they are."""
        hits, sure = np.zeros(len(self.labels), np.bool_), np.zeros(len(self.labels))
        for (_, others), one in zip(self.folds, found, strict=True):
            hits[others], sure[others] = one.hits, one.sure
        return hits, sure


def probabilities(model: Any, inputs: Sequence[dict[str, Any]]) -> NDArray[Any]:
    """Class probabilities, (photos, classes)."""
    interpreter = Interpreter(model)
    return np.array([list(interpreter.run(one)["prob"].values()) for one in inputs])


Make = Callable[[Food, int], Any]  # a compressed model for a fold


def single(scheme: str, mean: Any, *, calibrate: bool = True, min_elements: int = 0) -> Make:
    """One scheme for every convolution of ``min_elements``, another for the mean image."""
    rules = [
        mp.Rule(name=MEAN, scheme=mean),
        mp.Rule(op_type="conv", min_rank=2, min_elements=min_elements, scheme=scheme),
    ]
    recipe = mp.Recipe(default="keep", rules=rules)

    def make(food: Food, fold: int) -> Any:
        return mp.compress(food.model, recipe, statistics=food.statistics[fold] if calibrate else None)

    return make


def fitted(asked: str, mean: mp.Palettize, *more: str) -> Make:
    """What ``budget.fit`` chooses for each convolution, of ``FINE`` and ``more``."""

    def make(food: Food, fold: int) -> Any:
        statistics = food.statistics[fold]
        found = budget.fit(
            food.model,
            asked,
            data=food.seen(fold),
            candidates=candidates(*FINE, *more),
            statistics=statistics,
            samples=16,
            rules=[mp.Rule(name=MEAN, scheme=mean)],
        )
        return mp.compress(food.model, found.recipe, statistics=statistics)

    return make


def theirs(nbits: int) -> Make:
    """coremltools' palettization, the mean image at 2 bits, no weight too small."""

    def make(food: Food, fold: int) -> Any:
        model = ct.models.MLModel(str(food.model), skip_model_load=True)
        weights = (record.name for record in mp.compress(food.model, "keep").report)
        own = cto.OpPalettizerConfig(nbits=nbits, weight_threshold=0)
        mean = cto.OpPalettizerConfig(nbits=2)
        named: Any = {next(name for name in weights if fnmatch(name, MEAN)): mean}
        return cto.palettize_weights(model, cto.OptimizationConfig(own, op_name_configs=named))

    return make


ROWS: dict[str, Make] = {
    "mean image pal2, all else kept": single("keep", "pal2", calibrate=False),
    "mean image 8 colours, all else kept": single("keep", colours(3), calibrate=False),
    "mean image 16 colours, all else kept": single("keep", colours(4), calibrate=False),
    "coremltools: 4 bits, mean image 2": theirs(4),
    "pal4-g16, no data": single("pal4-g16", colours(4), calibrate=False),
    "pal4-gptq": single("pal4-gptq", colours(4)),
    "pal4-g16-gptq": single("pal4-g16-gptq", colours(4)),
    "pal4-g16-gptq, small ones kept": single("pal4-g16-gptq", colours(3), min_elements=2049),
    "budget 447 kB, 16 colours": fitted("447 kB", colours(4)),
    "budget 447 kB, 64 colours": fitted("447 kB", colours(6)),
    "budget 447 kB, vectors too": fitted("447 kB", colours(4), *VECTORS),
    "coremltools: 3 bits, mean image 2": theirs(3),
    "pal3-g16, no data": single("pal3-g16", colours(4), calibrate=False, min_elements=2049),
    "pal3-g16-gptq": single("pal3-g16-gptq", colours(4), min_elements=2049),
    "budget 3 bits, 8 colours": fitted("3 bits", colours(3)),
}


def measured(food: Food, make: Make) -> list[Fold]:
    """A recipe on both folds."""
    return [food.measure(fold, make(food, fold)) for fold in range(len(food.folds))]


def row(food: Food, name: str, found: Sequence[Fold]) -> dict[str, Any]:
    """What the table says of a recipe."""
    hits, sure = food.joined(found)
    loss, error = lost(food.right, hits)
    less = food.sure - sure
    return {
        "recipe": name,
        "package_bytes": max(one.nbytes for one in found),
        "KL_on_calibration": float(np.mean([one.divergence for one in found])),
        "accuracy": f"{100 * hits.mean():.2f} %",
        "loss_points": round(loss, 2),
        "standard_error": round(error, 2),
        "probability_loss": f"{100 * less.mean():.2f} +- {100 * less.std() / math.sqrt(len(less)):.2f}",
        "lost_won": f"-{int((food.right & ~hits).sum())} +{int((~food.right & hits).sum())}",
    }


def chosen(found: dict[str, list[Fold]], limit: int) -> tuple[str, list[Fold]]:
    """In each fold the recipe within ``limit`` that diverges least on the photos that calibrated it."""
    names: list[str] = []
    for fold in range(len(next(iter(found.values())))):
        within = [name for name, one in found.items() if one[fold].nbytes <= limit]
        names.append(min(within, key=lambda name: found[name][fold].divergence))
    text = " / ".join(dict.fromkeys(names))
    return text, [found[name][fold] for fold, name in enumerate(names)]


def work_folder() -> "tempfile.TemporaryDirectory[str]":
    """Where the upgraded model goes."""
    return tempfile.TemporaryDirectory(prefix="milpasses-food-")
