"""Tune a compressed model: the same forms and bytes, with what they store learned against the float model."""

import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import attrs
import numpy as np
from coremltools.models import MLModel

from milpasses.data.samples import Samples
from milpasses.encoding.lowering import OpSpec, Stored, lower
from milpasses.encoding.verify import check_decoding
from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter
from milpasses.program.model import CompressedModel, write_model
from milpasses.program.opening import open_program
from milpasses.program.package import check_output
from milpasses.program.pipelines import opened_parts
from milpasses.program.saved import SavedProgram
from milpasses.program.weights import FLOATS, Site
from milpasses.program.writer import SavedCopy
from milpasses.recipe.recipe import Recipe
from milpasses.report import METADATA_KEY, Report
from milpasses.rewrite import rewriter_for, write_rewritten

_LEAST = 8  # samples, of which every fourth is held out, as calibration holds them out
_APART = 4
_VECTORS = ("bias", "beta", "gamma")
Progress = Callable[[int, int, str], None]


def tune(
    model: "str | os.PathLike[str] | MLModel",
    recipe: Any,
    data: Any,
    *,
    output: "str | os.PathLike[str] | None" = None,
    minutes: float = 20.0,
    steps: int = 400,
    batch: int = 16,
    device: str = "cpu",
    seed: int = 0,
    limit: int | None = None,
    function: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> CompressedModel:
    """Learn what a compressed model stores, so that its outputs come nearer to those of ``model``.

    Two stages: tables, scales, biases and gains of normalizations; then codes as well, from latent weights
    with a straight-through gradient. Every fourth sample is held out, and decides: what is returned is never
    worse on them, in any output, than what tuning began with. Forms, bytes, masks and ops stay.

    Args:
        model: the float model, a path or ``MLModel``: its outputs are learned from.
        recipe: whatever ``compress`` takes, calibrated with ``data``; or that model compressed already, an
            ``MLModel`` or the path of a package.
        data: whatever ``Samples.of`` takes, eight samples or more of equal shapes, without labels.
        output, force: as ``compress`` takes them.
        minutes: most time for the two stages; a run that ends by it may differ from the next one.
        steps: most steps of each stage.
        batch: samples a step.
        device: torch's: ``cpu``, ``cuda``, ``mps``.
        seed: of the order of the samples.
        limit: use the first so many samples.
        function: which function of a multifunction model.
        progress: called with (done, total, name of the stage).

    Returns:
        The model with its ``report``, whose notes say what each stage gained.

    Raises:
        MilpassesError: torch is missing, too few samples, nothing to learn, no gradient that reaches it, a
            device that is not there, a loss that is not finite. Nothing is written then.
    """
    if find_spec("torch") is None:
        raise MilpassesError("tuning needs torch: pip install 'milpasses[torch]'")
    if output is not None:
        check_output(Path(output), force)
    with opened_parts(model) as (pipeline, programs):
        if pipeline is not None:
            raise MilpassesError("a pipeline is tuned part by part: tune the package of a part alone")
        teacher = programs[""]
        samples = list(Samples.of(data, Interpreter(teacher, function), limit=limit))
        if len(samples) < _LEAST:
            raise MilpassesError(
                f"{len(samples)} samples are too few to tune with: give at least {_LEAST}, of which every "
                f"{_APART}th is held out"
            )
        inputs = [sample.inputs for sample in samples]
        given, report = _start(teacher, recipe, inputs, function)
        task = _Task(teacher, given, inputs, function, device, batch, seed)
        replaced = task.learn(report, minutes, steps, progress)
        return _written(given, replaced, report, output, force)


def _start(
    teacher: SavedProgram, recipe: Any, inputs: list[Any], function: str | None
) -> tuple[SavedProgram, Report]:
    """The compressed program that tuning starts from, and its report."""
    is_path = isinstance(recipe, str | os.PathLike) and Path(recipe).is_dir()
    if is_path or isinstance(recipe, MLModel):
        report = getattr(recipe, "report", None) or Report()
        return open_program(recipe), report
    wanted = Recipe.of(recipe)
    if wanted.wants_activations:
        raise MilpassesError("8-bit activations have no gradient: tune without a8, then add it with compress")
    rewriter = rewriter_for(teacher, wanted, calibration=inputs, function=function)
    start = write_rewritten(teacher, rewriter, CompressedModel)
    return open_program(start, skip_model_load=True), start.report


@attrs.define(eq=False)
class _Task:
    """One tuning: the float program, the compressed one, and the samples."""

    teacher: SavedProgram
    given: SavedProgram
    inputs: list[Any]
    function: str | None
    device: str
    batch: int
    seed: int

    def learn(
        self, report: Report, minutes: float, steps: int, progress: Progress | None
    ) -> dict[Site, list[OpSpec]]:
        """The ops of each site that learned; notes what the stages gained."""
        from milpasses.interpreter.batch import BatchRun
        from milpasses.tuning.objective import are_probabilities, compared
        from milpasses.tuning.training import Trainer

        interpreter = Interpreter(self.given, self.function, device=self.device, gradients=True)
        outputs = compared(interpreter.function)
        floats = Interpreter(self.teacher, self.function, device=self.device)
        named = {var.name: var for var in compared(floats.function)}
        missing = [var.name for var in outputs if var.name not in named]
        if missing or not outputs:
            raise MilpassesError(
                f"the float model has no output {', '.join(missing)}" if missing else "no output holds floats"
            )
        run = BatchRun(interpreter, outputs)
        stacked = run.stack(self.inputs)
        targets = self._targets(BatchRun(floats, [named[var.name] for var in outputs]), stacked)
        learned, originals = self._learners(interpreter.function_name)
        places = range(len(self.inputs))
        trainer = Trainer(
            interpreter, run, {names: one for (_, names), one in learned.items()}, stacked, targets,
            [are_probabilities(var) for var in outputs],
            [i for i in places if i % _APART != 1], [i for i in places if i % _APART == 1],
            self.batch, self.seed,
        )  # fmt: skip
        unreached = trainer.check_gradients()
        if unreached:
            report.notes.append(f"not tuned, no gradient reaches them: {', '.join(unreached)}")
        start = best = trainer.score()
        began = time.monotonic()
        for name, share in (("tables", 0.4), ("codes", 1.0)):
            if name == "codes":
                for (site, _), one in learned.items():
                    if site.existing is not None:
                        one.free(originals[site])
            left = 60 * minutes * share - (time.monotonic() - began)
            tell = (lambda done, of=name: progress(done, steps, of)) if progress is not None else _silent
            before, best = best, trainer.stage(steps, left, start, tell)
            report.notes.append(
                _gain(name, [var.name for var in outputs], before, best, len(trainer.held_out))
            )
        return {site: self._specs(site, one) for (site, _), one in learned.items()}

    def _targets(self, run: Any, stacked: Any) -> list[Any]:
        import torch

        parts: list[list[Any]] = []
        for start in range(0, len(self.inputs), self.batch):
            rows = {name: values[start : start + self.batch] for name, values in stacked.items()}
            parts.append(run(rows))
        return [torch.cat(column) for column in zip(*parts, strict=True)]

    def _learners(self, function: str) -> tuple[dict[Any, Any], dict[Site, Any]]:
        """What learns, by site and the variables that it is; and the float weights."""
        from milpasses.tuning.learned import LearnedVector, learned

        dense = {site.weight.name: site for site in self.teacher.sites()}
        found: dict[Any, Any] = {}
        originals: dict[Site, Any] = {}
        for site in self.given.sites():
            names = tuple(site.variables(function))
            if not names or (site.blocked is not None and site.existing is not None):
                continue
            if site.existing is not None:
                one = learned(site.existing(), self.device)
                if one is not None:
                    original = dense.get(site.weight.name)
                    same = original is not None and original.existing is None
                    originals[site] = original.weight.value if same and original else site.existing().decode()
                    found[site, names] = one
            elif _is_vector(site):
                found[site, names] = LearnedVector(site.weight.value, self.device)
        if not originals:
            raise MilpassesError("nothing to tune: no weight is stored in tables, integers or sparse form")
        return found, originals

    def _specs(self, site: Site, one: Any) -> list[OpSpec]:
        """The ops that hold what was learned, once they are known to decode to it."""
        encoding, name = one.encoding(), site.weight.name
        if isinstance(encoding, np.ndarray):
            dtype = encoding.dtype.name
            return [OpSpec("const", name, {"val": Stored(encoding, dtype)}, ((encoding.shape, dtype),))]
        generation = self.given.target.generation
        decoded = encoding.decode()
        check_decoding(encoding, decoded, name, generation)
        if not np.array_equal(decoded.astype(np.float32), one.value().detach().cpu().numpy()):
            raise MilpassesError(f"{name}: {encoding.form} does not decode to what was learned")
        return lower(encoding, name, generation)


def _is_vector(site: Site) -> bool:
    """A bias, or a gain or an offset of a normalization, and nothing else."""
    weight = site.weight
    params = {use.param for use in weight.consumers}
    return weight.rank == 1 and weight.dtype in FLOATS and bool(params) and params <= set(_VECTORS)


def _silent(done: int) -> None:
    pass


def _gain(stage: str, names: list[str], before: Any, after: Any, count: int) -> str:
    """A sentence of the report."""
    changes = ", ".join(
        f"{name} {a:.2f} -> {b:.2f} dB"
        for name, a, b in zip(names, before.decibels, after.decibels, strict=True)
    )
    return f"tuned {stage}: {changes} on {count} held-out samples"


def _written(
    program: SavedProgram, replaced: dict[Site, list[OpSpec]], report: Report, output: Any, force: bool
) -> CompressedModel:
    """The package with what was learned."""

    def write_weights(folder: Path) -> Any:
        copy = SavedCopy(program, folder)
        copy.replace(list(replaced), lambda site: replaced[site])
        copy.spec.description.metadata.userDefined[METADATA_KEY] = report.to_metadata()
        return copy.spec

    return write_model(
        program.package, write_weights, CompressedModel, output, force, report=report, **program.load_options
    )
