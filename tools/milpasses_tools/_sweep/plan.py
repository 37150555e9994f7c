"""The course of a sweep: what to measure, what is there already, what comes of it."""

import uuid
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from milpasses.data.random_data import is_random
from milpasses.errors import MilpassesError
from milpasses.program.files import check_no_input, copy_whole, write_json
from milpasses.program.publish import put, remove
from milpasses_tools._progress import Progress
from milpasses_tools._sweep.choice import Choice, choose
from milpasses_tools._sweep.data import Prepared, prepare
from milpasses_tools._sweep.notes import about_sweep, marked, notes_of
from milpasses_tools._sweep.request import Request
from milpasses_tools._sweep.result import Sweep
from milpasses_tools._sweep.run import run
from milpasses_tools._sweep.store import (
    Store,
    content_hash,
    file_name,
    hash_model,
    is_full,
)
from milpasses_tools._sweep.threads import one_thread
from milpasses_tools._sweep.tuning import learn
from milpasses_tools._sweep.unknown import check_random, rank, warn_of_few
from milpasses_tools._sweep.variants import (
    Compressed,
    Fitted,
    Models,
    Original,
    Variant,
    check_names,
    classic,
    default_recipes,
    from_recipe,
)
from milpasses_tools._sweep.work import Task, metric_text

if TYPE_CHECKING:
    from milpasses.program.opset import Opset
    from milpasses.program.saved import SavedProgram

_CALIBRATION = 0.2


def conduct(
    request: Request,
    jobs: int,
    executor: Executor | None,
    resume: bool,
    force: bool,
    progress: Progress | None,
) -> Sweep:
    """Do all of it; see ``sweep``."""
    from milpasses_tools._compare.runners import open_runner
    from milpasses_tools._models import is_network
    from milpasses_tools._sweep.report import write_results

    if not request.model.exists():
        raise MilpassesError(f"{request.model}: no such model")
    check_no_input(request.output, (request.model, request.data))
    if is_random(request.data):
        check_random(request.limit, request.by)
    legacy = is_network(request.model)
    if request.classic and not legacy:
        raise MilpassesError(f"{request.model}: --classic is for legacy networks (.mlmodel); give recipes")
    variants = _variants(request, legacy)
    if not legacy:
        _check_targets(request, variants)
    if request.part is not None and legacy:
        raise MilpassesError(f"part {request.part}: a legacy network is measured whole")
    runner = open_runner(request.model, request.function, request.runtime)
    if request.scores is not None and request.scores not in runner.output_names:
        raise MilpassesError(f"no output {request.scores}; there are {', '.join(runner.output_names)}")
    try:
        with Store(request.output).opened(resume, force) as store:
            calibrated = any(variant.calibrated for variant in variants)
            share = request.calibration
            share = _CALIBRATION * calibrated if share is None else share
            data = prepare(
                request.data, runner, store.cache,
                limit=request.samples, seed=request.seed, calibration=share,
            )  # fmt: skip
            warn_of_few(request.limit, request.by, request.scores, runner, data)
            running = {"model": str(request.model), "status": "running"}
            write_json(store.written / "sweep.json", running, force=True)
            write_json(store.written / "split.json", data.split(request.seed), force=True)
            models, known = _models(request, store, variants, data, legacy, progress)
            found = _measured(request, store, models, data, variants, known, jobs, executor, progress)
            notes = write_results(found, store.written)
            store.publish()
            return attrs.evolve(found, notes=(*found.notes, *notes))
    except (OSError, MilpassesError) as error:
        if is_full(error):
            raise MilpassesError(
                f"{request.output}: the disk is full; what is finished is kept: make room and go on with "
                "resume=True"
            ) from error
        raise


def _variants(request: Request, legacy: bool) -> list[Variant]:
    """The variants in the order of the table, without the original."""
    recipes = request.recipes
    if recipes is None and not request.classic and not request.variants:
        opset = _target(request, legacy)
        recipes = ("keep", *default_recipes(opset)) if legacy else default_recipes(opset)
    found: list[Variant] = [*(classic() if request.classic else []), *map(from_recipe, recipes or ())]
    found += request.variants
    if any(variant.name == Original().name for variant in found):
        raise MilpassesError(f"a variant cannot be called {Original().name!r}: that is the model as it is")
    return check_names(found)


def _target(request: Request, legacy: bool) -> "Opset":
    """What the ML Program that recipes take will target."""
    from milpasses.program.opset import OPSETS, compressible, opset_of

    if legacy:
        own = OPSETS[-1] if request.target is None else OPSETS[0]
    else:
        own = min((one.target for one in _programs(request).values()), key=lambda opset: opset.version)
    asked = own if request.target is None else opset_of(int(request.target), request.target.name)
    return compressible(max(own, asked, key=lambda opset: opset.version))


def _check_targets(request: Request, variants: Sequence[Variant]) -> None:
    """Raise ``TargetError``, before anything is prepared, where the target refuses every variant there is."""
    from milpasses.errors import TargetError
    from milpasses.program.opening import check_newer
    from milpasses.rewrite import Rewriter

    target, programs = _target(request, False), _programs(request)
    if request.target is not None:
        check_newer(programs.values(), request.target)
    sites = [site for program in programs.values() for site in program.sites()]
    refused: TargetError | None = None
    for variant in variants:
        if not isinstance(variant, Compressed):
            return
        try:
            Rewriter(variant.recipe, target).check_target(sites)
        except TargetError as error:
            refused = error
        else:
            return
    if refused is not None:
        raise refused


def _programs(request: Request) -> "dict[str, SavedProgram]":
    """The ML Programs that recipes compress, by part of a pipeline; ``""`` where there is none."""
    from milpasses.program.opening import open_program
    from milpasses.program.pipelines import is_pipeline, open_pipeline

    if is_pipeline(request.model):
        return open_pipeline(request.model).programs(request.part)
    if request.part is not None:
        raise MilpassesError(f"part {request.part}: the model is no pipeline")
    return {"": open_program(request.model)}


def _raised(request: Request, store: Store) -> tuple[Path, tuple[str, ...]]:
    """The package that recipes take: the model, or raised to its target, in the cache; and notes on that."""
    from milpasses.program.package import write_package
    from milpasses.program.pipelines import opened_parts

    given, programs = request.model.absolute(), _programs(request)
    with opened_parts(request.model, request.target, request.part) as (pipeline, raised):
        if all(raised[name].package.path == one.package.path for name, one in programs.items()):
            return given, ()
        newest = max((one.target for one in raised.values()), key=lambda opset: opset.version)
        which = "" if request.part is None else f"-{file_name(request.part)}"
        name = f"program-{hash_model(given)[:20]}{which}-{newest.name}.mlpackage"
        path = (store.cache / name).absolute()
        if not path.exists():
            if pipeline is None:
                copy_whole(raised[""].package.path, path)
            else:
                write_package(pipeline.package, path, pipeline.copy)
        notes = [(part, note) for part, one in raised.items() for note in one.notes]
        return path, tuple(f"part {part}: {note}" if part else note for part, note in notes)


def _models(
    request: Request,
    store: Store,
    variants: Sequence[Variant],
    data: Prepared,
    legacy: bool,
    progress: Progress | None,
) -> tuple[Models, tuple[str, ...]]:
    """The models to start from, and notes on them.

    A legacy network is raised to an ML Program where a recipe needs one, a program to its target.
    """
    given = program = request.model.absolute()
    notes: tuple[str, ...] = ()
    if not legacy:
        program, notes = _raised(request, store)
    if legacy and any(isinstance(variant, Compressed | Fitted) for variant in variants):
        name = f"program-{hash_model(given)[:20]}-{_target(request, legacy).name}.mlpackage"
        program = (store.cache / name).absolute()
        if not program.exists():
            import coremltools as ct

            from milpasses import neuralnetwork

            target = ct.target.iOS18 if request.target is None else request.target
            neuralnetwork.upgrade(given, minimum_deployment_target=target, output=program)
    if not data.calibration:
        return Models(given, program, part=request.part), notes
    tuned = [one.recipe for one in variants if isinstance(one, Compressed) and one.calibrated]
    fits = any(isinstance(one, Fitted) for one in variants)
    learnt = learn(data, program, tuned, fits, store.cache, request.function, progress, request.part)
    return Models(given, program, learnt, request.part), notes


def _measured(
    request: Request,
    store: Store,
    models: Models,
    data: Prepared,
    variants: Sequence[Variant],
    notes: tuple[str, ...],
    jobs: int,
    executor: Executor | None,
    progress: Progress | None,
) -> Sweep:
    base = _base_key(request, data)
    keep = store.written / "models" if request.keep_models else None
    if keep is not None:
        keep.mkdir(exist_ok=True)
    reference = (store.cache / f"outputs-{base[:20]}.npz").absolute()
    tasks = [
        _task(request, store, models, data, one, base, reference, keep) for one in (Original(), *variants)
    ]
    done = {task.variant.name: row for task in tasks if (row := store.read(task.result)) is not None}
    if not reference.exists():
        done.pop(Original().name, None)
    missing = [task for task in tasks if task.variant.name not in done]
    first = [task for task in missing if isinstance(task.variant, Original)]
    rest = [task for task in missing if not isinstance(task.variant, Original)]
    with one_thread():  # an executor may compute in threads of this process
        ran = run([first, rest], executor, jobs, progress, len(done))
    rows = tuple({**done, **ran}.get(task.variant.name, {}) for task in tasks)
    if rows[0]["status"] != "done":
        raise MilpassesError(f"{request.model}: the original cannot be measured: {rows[0]['error']}")
    ranked = data.random and request.by is None
    choice = rank(rows, request.limit) if ranked else choose(rows, request.limit, request.by, request.seed)
    saved = _save(request, store, models, tasks, choice)
    notes = (*notes, *notes_of(data, rows, choice))
    about = about_sweep(request, data, variants, base)
    return Sweep(store.folder, about, marked(rows, choice), choice, saved, len(ran), notes)


def _base_key(request: Request, data: Prepared) -> str:
    """The hash of all that every variant has in common."""
    from milpasses import __version__

    metrics = repr([(name, metric_text(metric)) for name, metric in request.metrics])
    parts = [
        __version__, hash_model(request.model), data.key, str(request.function), str(request.part),
        str(request.target), request.runtime, str(request.scores), str(request.top_k), metrics,
    ]  # fmt: skip
    return content_hash(parts)


def _task(
    request: Request,
    store: Store,
    models: Models,
    data: Prepared,
    variant: Variant,
    base: str,
    reference: Path,
    keep: Path | None,
) -> Task:
    text = uuid.uuid4().hex if variant.text is None else variant.text
    aside = repr(data.calibration) if variant.calibrated else ""
    result = store.result(variant.name, content_hash([base, text, aside])).absolute()
    models = models if variant.calibrated else attrs.evolve(models, calibration=None)
    return Task(
        variant, models, data, result, reference, store.work.absolute(), request.function, request.runtime,
        request.scores, request.top_k, request.metrics, keep,
    )  # fmt: skip


def _save(
    request: Request, store: Store, models: Models, tasks: Sequence[Task], choice: Choice | None
) -> Path | None:
    """The chosen model as ``chosen.mlpackage`` or ``chosen.mlmodel``; that of an earlier sweep goes then."""
    saved = _chosen(request, store, models, tasks, choice)
    for old in store.written.glob("chosen.ml*"):
        if saved is None or old.name != saved.name:
            remove(old)
    return saved


def _chosen(
    request: Request, store: Store, models: Models, tasks: Sequence[Task], choice: Choice | None
) -> Path | None:
    """The chosen model in its place: made once more unless it was kept."""
    if choice is None or choice.chosen is None:
        return None
    task = next(task for task in tasks if task.variant.name == choice.chosen)
    if isinstance(task.variant, Original):
        return request.model
    folder = store.work / f"chosen-{file_name(task.variant.name)}"
    folder.mkdir()
    kept = None if task.keep is None else next(task.keep.glob(f"{task.result.stem}.*"), None)
    with one_thread():
        made = task.variant.make(task.models, folder).path if kept is None else kept
    name = f"chosen{made.suffix}"
    if kept is None:
        put(made, store.written / name, force=True)
    else:
        copy_whole(made, store.written / name, force=True)
    return store.folder / name
