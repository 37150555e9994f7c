"""One variant: made, measured, written. Runs in whatever process an executor has."""

import inspect
import math
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from milpasses.data.samples import Sample
from milpasses.program.files import write_json
from milpasses_tools._compare.comparison import Kind, _plain
from milpasses_tools._compare.metrics import AccuracySums, OutputSums, kind_of, primary_output
from milpasses_tools._output import folder_bytes
from milpasses_tools._sweep.data import Prepared
from milpasses_tools._sweep.outputs import references
from milpasses_tools._sweep.store import is_full
from milpasses_tools._sweep.threads import one_thread
from milpasses_tools._sweep.variants import Models, Original, Variant
from milpasses_tools._sweep.weights import weight_figures

Metric = str | Callable[[Mapping[str, Any], Sample], float]
# coremltools builds programs in one place for the whole process, and kernels of two threads do not mix.
_MAKING = threading.Lock()


@attrs.frozen(eq=False)
class Task:
    """Everything that a worker needs; all of it can be pickled, and paths are those of a shared disk.

    ``reference`` is where the original's outputs are. A metric is a function of (outputs, sample), or its
    name as ``module:function``.
    """

    variant: Variant
    models: Models
    data: Prepared
    result: Path
    reference: Path
    work: Path
    function: str | None = None
    runtime: str = "reference"
    scores: str | None = None
    top_k: int = 5
    metrics: tuple[tuple[str, Metric], ...] = ()
    keep: Path | None = None


def evaluate(task: Task) -> dict[str, Any]:
    """Make and measure one variant, and write what was found to ``task.result``.

    Never raises what the variant does wrong: that is a result with ``status`` failed, which is not written;
    ``disk_full`` says that the disk, and not the variant, is to blame.
    """
    row: dict[str, Any] = {"name": task.variant.name, "text": task.variant.text, "status": "done"}
    try:
        with one_thread(), tempfile.TemporaryDirectory(dir=task.work) as folder:
            row.update(_measure(task, Path(folder)))
        write_json(task.result, _plain(row), force=True)
    except Exception as error:
        message = " ".join(str(error).split()) or "no message"
        return {
            "name": task.variant.name,
            "text": task.variant.text,
            "status": "failed",
            "error": f"{type(error).__name__}: {message}",
            "disk_full": is_full(error),
        }
    return _plain(row)


def _measure(task: Task, folder: Path) -> dict[str, Any]:
    from milpasses_tools._compare.runners import open_runner

    began = time.perf_counter()
    with _MAKING:
        made = task.variant.make(task.models, folder)
        seconds = time.perf_counter() - began
        runner = open_runner(made.path, task.function, task.runtime)
        weights = weight_figures(made, task.models, task.reference.name)
    path = made.path
    is_original = isinstance(task.variant, Original)
    run = _Run(task)
    began = time.perf_counter()
    with references(task.reference, is_original) as (reference, keep):
        for sample in task.data.samples(task.data.measured):
            outputs = runner.run(sample.inputs)
            run.add(sample, outputs, outputs if is_original else next(reference))
            keep(outputs)
    if task.keep is not None and not is_original:
        kept = task.keep / f"{task.result.stem}{path.suffix}"
        if not kept.exists():
            path.rename(kept)
            path = kept
    return {
        "bytes": folder_bytes(path) if path.is_dir() else path.stat().st_size,
        **weights,
        **run.results(),
        "seconds_compress": round(seconds, 3),
        "seconds_run": round(time.perf_counter() - began, 3),
    }


class _Run:
    """The figures of one variant, summed up a sample at a time; shares also for each sample by itself."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.outputs: dict[str, OutputSums] = {}
        self.accuracy = AccuracySums(task.scores, task.top_k)
        self.each: dict[str, list[float | None]] = {"accuracy": [], "agreement": []}
        self.metrics = [(name, _function(metric)) for name, metric in task.metrics]
        self.broken: dict[str, str] = {}

    def add(self, sample: Sample, outputs: Mapping[str, Any], reference: Mapping[str, Any]) -> None:
        scores, k = self.task.scores, self.task.top_k
        kinds: dict[str, Kind] = {
            name: kind_of(name, value, reference, scores) for name, value in reference.items()
        }
        for name, value in reference.items():
            self.outputs.setdefault(name, OutputSums(name, kinds[name], k)).add(value, outputs[name])
        primary = primary_output(kinds, scores)
        agreement = None
        if primary is not None:
            alone = OutputSums(primary, kinds[primary], k)
            alone.add(reference[primary], outputs[primary])
            agreement = alone.result().agreement
        self.each["agreement"].append(agreement)
        self.accuracy.add(outputs, sample)
        alone_sums = AccuracySums(scores, k)
        alone_sums.add(outputs, sample)
        found = alone_sums.result("", "")
        self.each["accuracy"].append(None if found is None else found.top1)
        for name, function in self.metrics:
            if name not in self.broken:
                self._metric(name, function, outputs, sample)

    def _metric(self, name: str, function: Any, outputs: Mapping[str, Any], sample: Sample) -> None:
        try:
            self.each.setdefault(name, []).append(float(function(outputs, sample)))
        except Exception as error:  # the user's own code: its column is empty, all else stands
            self.broken[name] = f"{sample.name}: {type(error).__name__}: {' '.join(str(error).split())}"
            self.each[name] = []

    def results(self) -> dict[str, Any]:
        accuracy = self.accuracy.result("", "")
        outputs = [attrs.asdict(sums.result()) for sums in self.outputs.values()]
        snrs = [snr for output in outputs if (snr := output["snr_db"]) is not None and not math.isnan(snr)]
        each = {name: values for name, values in self.each.items() if any(v is not None for v in values)}
        return {
            "outputs": outputs,
            "output_snr_db": min(snrs, default=None),
            "agreement": _mean(self.each["agreement"]),
            "accuracy": None if accuracy is None else accuracy.to_dict(),
            "own_class": self.accuracy.own_class,
            "metrics": {name: _mean(each.get(name, [])) for name, _ in self.metrics},
            "metric_errors": self.broken,
            "each": each,
        }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _function(metric: Metric) -> Any:
    if callable(metric):
        return metric
    from milpasses.data.samples import _import

    return _import(metric)


def metric_text(metric: Metric) -> str:
    """What tells one metric from another: its source, so that no result of an older one is taken for it."""
    try:
        return inspect.getsource(_function(metric))
    except (OSError, TypeError):
        return metric if isinstance(metric, str) else repr(metric)
