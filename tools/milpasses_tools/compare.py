"""``milpasses compare``: what two models answer to the same inputs."""

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from milpasses_tools._compare.comparison import (
    EVERY,
    NOTES,
    Accuracy,
    BoxError,
    ClassAccuracy,
    Comparison,
    Miss,
    NonFinite,
    OpError,
    OutputError,
)
from milpasses_tools._options import (
    Data,
    Force,
    Function,
    Json,
    OutputFile,
    Part,
    SampleCount,
    Scores,
    Seed,
    TopK,
)
from milpasses_tools._output import print_json, print_written, printed_to
from milpasses_tools._progress import Progress, progress

if TYPE_CHECKING:
    from milpasses.data.samples import Sample, Samples
    from milpasses_tools._compare.runners import Runner

__all__ = [
    "Accuracy",
    "BoxError",
    "ClassAccuracy",
    "Comparison",
    "Miss",
    "NonFinite",
    "OpError",
    "OutputError",
    "accuracy",
    "compare",
]


class Runtime(str, Enum):
    """Who runs the models."""

    REFERENCE = "reference"
    COREML = "coreml"


def compare(
    a: Any,
    b: Any,
    data: Any = "random",
    *,
    samples: int | None = None,
    seed: int = 0,
    function: str | None = None,
    part: str | None = None,
    runtime: Runtime | str = Runtime.REFERENCE,
    per_op: bool = False,
    scores: str | None = None,
    top_k: int = 5,
    progress: Progress | None = None,
) -> Comparison:
    """Run two models on the same inputs and measure how far the second is from the first.

    One sample at a time, and nothing is kept but sums (with ``per_op`` also the activations of one sample).
    States start anew with each sample. Of pipelines the outputs of every part are compared, and
    as pairs the boxes that non-maximum suppression keeps.

    Args:
        a, b: the models: paths, ``MLModel``, ``Program``, or an ``Interpreter`` made by the caller.
        data: whatever ``milpasses.samples.Samples.of`` takes: the path of an ``.npz`` file or of a folder of
            images, ``"module:function"``, a callable, arrays by name, ``"random"``.
        samples: use the first so many; with random data draw so many.
        seed: of random data.
        function: which function of multifunction models; of each its default one unless given.
        part: of pipelines, this part alone, on what reaches it in the first.
        runtime: ``reference``, milpasses' interpreter, which is not an emulation of Core ML; or ``coreml``,
            Core ML itself, on macOS only.
        per_op: also measure every op that both models have, and what it adds to the error by itself.
        scores: the output that holds class scores along its last axis. Without: the probabilities of a
            classifier, else any float output of one or two dimensions.
        top_k: the k of top-k agreement and accuracy.
        progress: called after each sample with (done, total, sample's name); total is 0 if not known.

    Raises:
        MilpassesError: models with different inputs or outputs, data that does not fit, labels of classes
            that a model does not know, an output named by ``scores`` that is not there.
    """
    from milpasses.errors import MilpassesError
    from milpasses_tools._compare.boxes import BoxSums
    from milpasses_tools._compare.metrics import AccuracySums, OutputSums, kind_of
    from milpasses_tools._compare.per_op import FirstNonFinite, PerOp
    from milpasses_tools._compare.runners import PipelineReference, Reference, open_pair

    runtime = Runtime(runtime).value
    first, second, source = open_pair(a, b, data, part, function, samples, seed, runtime)
    _check_scores(scores, first)
    ops: PerOp | None = None
    if per_op:
        if isinstance(first, PipelineReference):
            raise MilpassesError(
                f"per_op=True is for one program: name a part of {', '.join(first.programs)} with part="
            )
        if not isinstance(first, Reference) or not isinstance(second, Reference):
            raise MilpassesError("per_op=True needs runtime=reference: Core ML shows nothing but its outputs")
        ops = PerOp(first.interpreter, second.interpreter)
    boxes: dict[str, BoxSums] = {}
    if isinstance(first, PipelineReference):
        suppressions = first.suppressions.items()
        boxes = {name: BoxSums(name, found, first.image_size) for name, found in suppressions}
    nonfinite = FirstNonFinite("a"), FirstNonFinite("b")
    accuracies = AccuracySums(scores, top_k), AccuracySums(scores, top_k)
    outputs: dict[str, OutputSums] = {}
    done = 0
    for sample in source:
        ran = [
            _run(runner, sample, watch, [] if ops is None else [(ops.watch_a, ops.watch_b)[index]])
            for index, (runner, watch) in enumerate(zip((first, second), nonfinite, strict=True))
        ]
        made = [outputs for outputs, _ in ran]
        for name, sums in boxes.items():
            sums.add(ran[0][1][name], ran[1][1][name])
        if ops is not None:
            ops.next_sample()
        for name, value in made[0].items():
            if name not in outputs:
                outputs[name] = OutputSums(name, kind_of(name, value, made[0], scores), top_k)
            outputs[name].add(value, made[1][name])
        for sums, result in zip(accuracies, made, strict=True):
            sums.add(result, sample)
        done += 1
        _report(progress, done, source, sample)
    note = NOTES[runtime]
    if isinstance(first, PipelineReference) and first.left_out:
        note += f"; not compared: {first.left_out}"
    matching = None if ops is None else ops.matching
    return Comparison(
        _name(a),
        _name(b),
        source.description,
        done,
        source.random,
        note,
        top_k,
        tuple(sums.result() for sums in outputs.values()),
        accuracies[0].result(source.description, note),
        accuracies[1].result(source.description, note),
        tuple(found for watch in nonfinite for found in watch.found.values()),
        () if ops is None else ops.results(),
        () if matching is None else tuple(op.name for op in matching.unmatched_a),
        () if matching is None else tuple(op.name for op in matching.unmatched_b),
        tuple(sums.result() for sums in boxes.values()),
    )


def accuracy(
    model: Any,
    data: Any,
    *,
    samples: int | None = None,
    seed: int = 0,
    function: str | None = None,
    runtime: Runtime | str = Runtime.REFERENCE,
    scores: str | None = None,
    top_k: int = 5,
    progress: Progress | None = None,
) -> Accuracy:
    """The share of labelled samples that a model gets right, in all and for each class.

    Arguments are those of ``compare``. Raises ``MilpassesError``, also where there are no labels or scores.
    """
    from milpasses.data.samples import Samples
    from milpasses.errors import MilpassesError
    from milpasses_tools._compare.metrics import AccuracySums
    from milpasses_tools._compare.runners import open_runner

    runtime = Runtime(runtime).value
    runner = open_runner(model, function, runtime)
    _check_scores(scores, runner)
    source = Samples.of(data, runner.inputs, limit=samples, seed=seed)
    sums = AccuracySums(scores, top_k)
    for done, sample in enumerate(source, 1):
        sums.add(runner.run(sample.inputs), sample)
        _report(progress, done, source, sample)
    found = sums.result(source.description, NOTES[runtime])
    if found is None:
        raise MilpassesError(
            f"{source.description}: accuracy needs labels, and an output of class scores (scores=)"
        )
    return found


def _run(
    runner: "Runner", sample: "Sample", watch: Any, observers: list[Any]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The outputs, and of a pipeline what each non-maximum suppression keeps, by part."""
    from milpasses_tools._compare.runners import PipelineReference

    watch.sample = sample.name
    seen = [watch, *observers]
    if isinstance(runner, PipelineReference):
        made, kept = runner.run_parts(sample.inputs, seen)
    else:
        made, kept = runner.run(sample.inputs, seen), {}
    for name, value in made.items():  # all that Core ML shows
        watch.check(value, name)
    return made, kept


def _check_scores(scores: str | None, runner: "Runner") -> None:
    from milpasses.errors import MilpassesError

    if scores is not None and scores not in runner.output_names:
        raise MilpassesError(f"no output {scores}; the model's outputs are {', '.join(runner.output_names)}")


def _report(progress: Progress | None, done: int, source: "Samples", sample: "Sample") -> None:
    if progress is not None:
        progress(done, source.count or 0, sample.name)


def _name(model: Any) -> str:
    return str(model) if isinstance(model, str | Path) else f"a {type(model).__name__} in memory"


def _limits(texts: list[str], option: str) -> dict[str, float] | None:
    """``40`` and ``NAME=40`` as numbers by output name."""
    from milpasses.errors import MilpassesError

    found: dict[str, float] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        try:
            found[name or EVERY] = float(number)
        except ValueError:
            raise MilpassesError(f"{option} takes a number, or OUTPUT=number; got {text!r}") from None
    return found or None


def command(
    a: Annotated[Path, typer.Argument(metavar="A", help="The model to measure against.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="The model to measure.")],
    data: Data = "random",
    samples: SampleCount = None,
    seed: Seed = 0,
    function: Function = None,
    part: Part = None,
    runtime: Annotated[
        Runtime, typer.Option(help="milpasses' reference interpreter, or Core ML itself (macOS; untried).")
    ] = Runtime.REFERENCE,
    scores: Scores = None,
    top_k: TopK = 5,
    per_op: Annotated[bool, typer.Option("--per-op", help="Say in which ops the error arises.")] = False,
    top: Annotated[int, typer.Option(metavar="N", min=0, help="List the N worst ops and classes.")] = 20,
    min_snr: Annotated[
        list[str] | None, typer.Option(metavar="[OUTPUT=]DB", help="Fail below so many dB of SNR.")
    ] = None,
    max_error: Annotated[
        list[str] | None, typer.Option(metavar="[OUTPUT=]X", help="Fail above this absolute error.")
    ] = None,
    min_agreement: Annotated[
        list[str] | None,
        typer.Option(metavar="[OUTPUT=]SHARE", help="Fail below this top-1 agreement, 0 to 1."),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write all figures to FILE, as CSV.")
    ] = None,
    output: OutputFile = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Compare what two models answer to the same inputs.

    For each output: signal-to-noise ratios, errors, cosine, and for class scores how often both rank the same
    class first. With labels (class folders, or labels in the .npz file) the accuracy of both. Ends with
    status 1 if a limit is not kept, and 2 if the comparison could not be made. Of detectors in pipelines also
    the boxes that both keep.

    \b
    milpasses compare model.mlpackage small.mlpackage --data photos/ --per-op
    milpasses compare model.mlpackage small.mlpackage --data inputs.npz --min-snr 30 --min-snr logits=40
    """
    from milpasses.program.files import check_files, write_text

    check_files([output, csv], force, (a, b, data))
    limits = {
        "min_snr": _limits(min_snr or [], "--min-snr"),
        "max_error": _limits(max_error or [], "--max-error"),
        "min_agreement": _limits(min_agreement or [], "--min-agreement"),
    }
    with progress("comparing", as_json) as step:
        found = compare(
            a,
            b,
            data,
            samples=samples,
            seed=seed,
            function=function,
            part=part,
            runtime=runtime,
            per_op=per_op,
            scores=scores,
            top_k=top_k,
            progress=step,
        )
    misses = found.misses(**limits)
    if csv is not None:
        write_text(csv, found.to_csv(), force)
    with printed_to(output, force):
        if as_json:
            print_json({**found.to_dict(), "misses": [str(miss) for miss in misses]})
        else:
            from milpasses_tools._compare.text import print_comparison

            print_comparison(found, top)
            for miss in misses:
                print(f"missed: {miss}")
    if not as_json:
        print_written(csv)
    if misses:
        raise typer.Exit(1)
