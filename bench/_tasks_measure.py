"""What the tables of real tasks share: a task, its candidates, and a row of right answers lost and won."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import coremltools.optimize.coreml as cto
import numpy as np
from numpy.typing import NDArray

import milpasses as mp
from bench.table import Table
from milpasses import budget
from milpasses.program.package import open_package
from milpasses.program.saved import SavedProgram
from milpasses.recipe.schemes import Palettize, Quantize, Scheme

Hits = NDArray[np.bool_]


@attrs.frozen(eq=False)
class Task:
    """A model, inputs to calibrate it with, and ``hits``: which answers to other inputs a model gets right.

    ``weights``: elements of its matrices and kernels, an attention mask apart.
    """

    name: str
    model: Path
    calibration: Sequence[dict[str, Any]]
    weights: int
    hits: Callable[[Any], Hits]

    def bits(self, model: Any) -> float:
        """All bytes of a model's weight file, in bits for each of ``weights``."""
        return 8 * file_bytes(model) / self.weights


def file_bytes(model: Any, pattern: str = "*.bin") -> int:
    """Bytes of the files of a saved model, a path or ``MLModel``."""
    path = getattr(model, "package_path", model)
    return sum(file.stat().st_size for file in Path(path).rglob(pattern) if file.is_file())


def count_weights(model: Path, without: Sequence[str] = ()) -> int:
    """Elements of the constants of two or more dimensions whose names do not begin as ``without`` says."""
    found = [site.weight for site in SavedProgram(open_package(model)).sites()]
    return sum(one.size for one in found if one.rank > 1 and not one.name.startswith(tuple(without)))


def lost(before: Hits, after: Hits) -> tuple[float, float]:
    """Points of accuracy lost, and the standard error of that: answers that flip, paired."""
    down, up = int((before & ~after).sum()), int((~before & after).sum())
    share = (down - up) / len(before)
    variance = (down + up) / len(before) - share**2
    return 100 * share, 100 * math.sqrt(max(variance, 0) / len(before))


def candidates(*texts: str) -> list[Scheme]:
    """Schemes for ``budget.fit`` that small weights may get, too: in these models they count."""
    return [attrs.evolve(Scheme.of(text), weight_threshold=0) for text in texts]


def plain(text: str) -> str:
    """The recipe without its calibrated methods."""
    return text.replace("-gptq", "").replace("-obs", "")


def theirs(model: Any, recipe: str) -> Any:
    """coremltools' data-free palettization or quantization with the settings of ``recipe``; else None."""
    scheme = Scheme.of(plain(recipe))
    if isinstance(scheme, Palettize):
        fields = {
            name: getattr(scheme, name) for name in ("nbits", "granularity", "group_size", "cluster_dim")
        }
        return cto.palettize_weights(model, cto.OptimizationConfig(cto.OpPalettizerConfig(**fields)))
    if isinstance(scheme, Quantize):
        fields = {name: getattr(scheme, name) for name in ("dtype", "granularity", "block_size")}
        return cto.linear_quantize_weights(
            model, cto.OptimizationConfig(cto.OpLinearQuantizerConfig(**fields))
        )
    return None


def compare(
    table: Table, task: Task, recipes: Sequence[str], schemes: Sequence[str], target_bits: float
) -> None:
    """A row for the model as it is, for each recipe, and for the budget of ``target_bits`` a weight.

    Beside each calibrated recipe: what the same recipe loses without data, and coremltools' function with
    the same settings. The budget is fitted to ``schemes``; its plain form to these without their methods.
    """
    import coremltools as ct

    before = task.hits(task.model)
    loaded = ct.models.MLModel(str(task.model), skip_model_load=True)
    statistics = mp.statistics(task.model, task.calibration, full=True, held_out=4)
    asked = math.floor(target_bits * task.weights / 8)

    def add(name: str, model: Any, without: Any = None, other: Any = None) -> None:
        after = task.hits(model)
        loss, error = lost(before, after)
        table.add(
            recipe=name,
            bits=task.bits(model),
            weight_bytes=file_bytes(model),
            accuracy=f"{100 * after.mean():.2f} %",
            loss_points=round(loss, 2),
            standard_error=round(error, 2),
            plain_loss="" if without is None else round(lost(before, task.hits(without))[0], 2),
            coremltools_loss="" if other is None else round(lost(before, task.hits(other))[0], 2),
            coremltools_bits="" if other is None else task.bits(other),
        )

    def fitted(texts: Sequence[str]) -> Any:
        found = budget.fit(
            task.model,
            asked,
            data=task.calibration,
            candidates=candidates(*texts),
            statistics=statistics,
            samples=8,
        )
        return found.recipe

    add("float16", task.model)
    for text in recipes:
        given = mp.compress(task.model, text, statistics=statistics)
        add(text, given, mp.compress(task.model, plain(text)), theirs(loaded, text))
    recipe = fitted(schemes)
    name = f"budget of {target_bits:g} bits"
    without = mp.compress(task.model, fitted([plain(text) for text in schemes]))
    add(name, mp.compress(task.model, recipe, statistics=statistics), without)
    sequential = mp.compress(task.model, recipe, calibration=task.calibration, sequential=True)
    add(f"{name}, sequential", sequential)
