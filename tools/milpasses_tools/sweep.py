"""``milpasses sweep``: many smaller models of one, measured side by side, and the one to take."""

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milpasses_tools._options import (
    Data,
    Function,
    Json,
    Part,
    SampleCount,
    Scores,
    Target,
    TopK,
    read_target,
)
from milpasses_tools._output import print_json
from milpasses_tools._progress import Progress, progress
from milpasses_tools._sweep.result import Sweep

if TYPE_CHECKING:
    from milpasses_tools._sweep.variants import Variant

__all__ = ["Sweep", "sweep"]

DEFAULT_MAX_LOSS = 1.0


def sweep(
    model: "str | os.PathLike[str]",
    output: "str | os.PathLike[str]",
    recipes: "Sequence[Any] | None" = None,
    data: Any = "random",
    *,
    classic: bool = False,
    variants: "Sequence[Variant]" = (),
    samples: int | None = None,
    seed: int = 0,
    calibration: float | None = None,
    metrics: Mapping[str, Any] | Sequence[str] = (),
    by: str | None = None,
    max_loss: float | None = None,
    max_size: int | None = None,
    function: str | None = None,
    part: str | None = None,
    minimum_deployment_target: Any = None,
    runtime: str = "reference",
    scores: str | None = None,
    top_k: int = 5,
    jobs: int = 1,
    executor: Executor | None = None,
    resume: bool = False,
    force: bool = False,
    keep_models: bool = False,
    progress: Progress | None = None,
) -> Sweep:
    """Compress a model in many ways, measure each on the same samples, and choose.

    Each finished variant is a file of its own in ``output``, under a hash of the model, the data and the
    recipe, so that ``resume`` goes on after any interruption. A variant that fails is a row with its error,
    and is tried again by the next run. The same seed gives the same figures whatever ``jobs``.

    Args:
        model: the path of an ``.mlpackage``, or of an ``.mlmodel`` (a legacy network, which recipes raise to
            an ML Program first).
        output: a folder, new or of an earlier sweep. It gets ``results.csv``, ``results.jsonl``,
            ``report.html``, ``front.png`` (with matplotlib), ``split.json`` and the chosen model.
        recipes: whatever ``Recipe.of`` takes, one a variant. Those with error feedback (``pal4-gptq``,
            ``sparse50-obs``) are calibrated on samples set aside. ``fit(BUDGET)`` stands for the recipe that
            ``milpasses.budget.fit`` finds with them for ``4 bits``, ``500 kB``, ``25 %`` or ``30 dB``.
            Without, and without other variants, those that the model's target allows. Recipes that hold
            functions are measured anew each time.
        data: what ``compare`` takes. Photos that cannot be read are skipped and counted.
        classic: also the 27 quantizations of legacy networks (``.mlmodel`` only).
        variants: more, of one's own: see ``milpasses_tools._sweep.variants.Variant``.
        samples: use the first so many.
        seed: of random data, of the split and of the bootstrap.
        calibration: the share of the samples set aside for variants that tune on data, and that none is
            measured on; by default a fifth where there is such a variant, else nothing.
        metrics: functions (outputs, sample) -> float by name, or names ``module:function``; their mean is
            a column. Larger is better.
        by: the measure to choose by: ``accuracy``, ``agreement`` or a metric; default: the first there is.
        max_loss: choose the smallest variant that loses at most so many points (default 1): hundredths of
            accuracy or agreement, units of a metric. Not what ``compress`` calls so, a loss of signal.
        max_size: choose the best variant of at most so many bytes.
        function, runtime, scores, top_k: as in ``compare``. Of a pipeline the outputs of every part count.
        part: of a pipeline, compress this part alone.
        minimum_deployment_target: what recipes raise an older model to first; by default one before iOS16 is
            raised to that, and a legacy network to iOS18.
        jobs: processes to use; 1 is this one. A script that asks for more needs ``if __name__ ==
            "__main__"``, as with any ``multiprocessing``.
        executor: any ``concurrent.futures`` executor instead; its workers need to see ``output``.
        resume, force: what to do with a folder that holds a sweep: go on, or start anew. Its results stay
            until those that are anew take their place.
        keep_models: keep every model that is made, in ``models``.
        progress: called with (done, total, text) as variants finish.

    Raises:
        MilpassesError: a model or data that cannot be used, an original that cannot be measured, a full disk.
    """
    from milpasses_tools._sweep.choice import Limit
    from milpasses_tools._sweep.plan import conduct
    from milpasses_tools._sweep.request import Request

    limit = (
        Limit("size", max_size)
        if max_size is not None
        else Limit("loss", _points(max_loss), max_loss is not None)
    )
    if max_size is not None and max_loss is not None:
        raise _error("give max_loss= or max_size=, not both")
    if jobs < 1:
        raise _error(f"jobs must be at least 1, got {jobs}")
    named = dict(metrics) if isinstance(metrics, Mapping) else {name: name for name in metrics}
    request = Request(
        Path(model), Path(output), None if recipes is None else tuple(recipes), data, classic,
        tuple(variants), samples, seed, calibration, tuple(named.items()), by, limit, function, part,
        minimum_deployment_target, runtime, scores, top_k, keep_models,
    )  # fmt: skip
    try:
        return conduct(request, jobs, executor, resume, force, progress)
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(f"{output}: what is finished is kept; resume=True goes on with it") from error


def _points(max_loss: float | None) -> float:
    if max_loss is not None and not 0 <= max_loss < float("inf"):
        raise _error(f"max_loss={max_loss:g}: give a number of points, 0 or more")
    return DEFAULT_MAX_LOSS if max_loss is None else max_loss


def _error(message: str) -> Exception:
    from milpasses.errors import MilpassesError  # brings coremltools, which --help does without

    return MilpassesError(message)


def command(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An .mlpackage, or a legacy .mlmodel.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="A folder for the results.")],
    data: Data = "random",
    recipes: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            "-r",
            metavar="RECIPE,...",
            help="Recipes; may be given again. Those that tune on data (pal4-gptq), and those fitted to a "
            'budget ("fit(4 bits)", "fit(500 kB)", "fit(25 %)", "fit(30 dB)"), get samples set aside for it.',
        ),
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Recipes with choices: pal{2,4,6}, pal4-g{8,16}, pal{1..4}."),
    ] = None,
    classic: Annotated[
        bool, typer.Option("--classic", help="The 27 quantizations of legacy networks (.mlmodel).")
    ] = False,
    samples: SampleCount = None,
    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", min=0, help="Of random data, of the split and of the bootstrap."),
    ] = 0,
    calibration: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Share of the samples set aside to tune on, not to measure on."),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:FUNCTION", help="A column more: a function of (outputs, sample)."),
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="MEASURE", help="Choose by accuracy, agreement or a metric.")
    ] = None,
    max_loss: Annotated[
        float | None,
        typer.Option(
            metavar="POINTS",
            help="Choose the smallest that loses at most so many points: hundredths of accuracy or "
            "agreement, units of a metric (default 1).",
        ),
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Choose the best of at most this size: 1.2MB.")
    ] = None,
    function: Function = None,
    part: Part = None,
    target: Target = None,
    scores: Scores = None,
    top_k: TopK = 5,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", metavar="N", min=1, help="Processes; default: one a core.")
    ] = None,
    dask: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Run on the Dask cluster of this scheduler.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the sweep that DIR holds.")] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Start anew in a DIR that holds one.")] = False,
    keep_models: Annotated[bool, typer.Option("--keep-models", help="Keep every model, not one.")] = False,
    as_json: Json = False,
) -> None:
    """Try many ways to compress a model, and choose one.

    Measures the size of each, its error, its agreement with the original, and with labelled data its
    accuracy; writes tables, a page and a picture into DIR, and the chosen model. An interrupted sweep goes
    on with --resume; nothing is measured twice.

    \b
    milpasses sweep model.mlpackage --data photos -r int8,pal6,pal4-g16 -o out
    milpasses sweep model.mlpackage --data photos --grid "pal{2,3,4,6,8}" --max-loss 0.5 -o out --resume
    milpasses sweep model.mlpackage --data photos -r pal4-gptq --grid "fit({3,4,5} bits)" -o out
    milpasses sweep model.mlmodel --data photos --classic --max-size 1.2MB -o out
    """
    from milpasses_tools._sweep.choice import read_size
    from milpasses_tools._sweep.text import print_sweep
    from milpasses_tools._sweep.variants import expand, split_recipes

    given = [*split_recipes(recipes or []), *(one for pattern in grid or [] for one in expand(pattern))]
    with _executor(dask) as executor, progress("measuring", as_json) as step:
        found = sweep(
            model,
            output,
            given or None,
            data,
            classic=classic,
            samples=samples,
            seed=seed,
            calibration=calibration,
            metrics=metric or [],
            by=by,
            max_loss=max_loss,
            max_size=None if max_size is None else read_size(max_size),
            function=function,
            part=part,
            minimum_deployment_target=read_target(target),
            scores=scores,
            top_k=top_k,
            jobs=jobs or os.cpu_count() or 1,
            executor=executor,
            resume=resume,
            force=force,
            keep_models=keep_models,
            progress=step,
        )
    if as_json:
        print_json(found.to_dict())
    else:
        print_sweep(found)


def _executor(address: str | None) -> Any:
    """A context with the executor of a Dask cluster; with None where no address is given."""
    from contextlib import contextmanager, nullcontext

    if address is None:
        return nullcontext()
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise _error("--dask needs Dask: pip install 'milpasses[dask]'") from None

    @contextmanager
    def connected() -> Any:
        try:
            client = Client(address, timeout="10s", set_as_default=False)
        except (OSError, ValueError) as error:
            raise _error(f"--dask {address}: no scheduler answers there ({error})") from error
        with client:
            yield client.get_executor(pure=False)

    return connected()
