"""One program to tune: what learns, from what, in which stages, and the ops that hold what was learned."""

import math
from typing import Any

import attrs
import numpy as np

from milpasses.encoding.lowering import OpSpec, Stored, lower
from milpasses.encoding.verify import check_decoding
from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter
from milpasses.interpreter.batch import BatchRun
from milpasses.program.saved import SavedProgram
from milpasses.program.weights import FLOATS, Site
from milpasses.report import Report
from milpasses.tuning.blocks import reconstruct
from milpasses.tuning.clock import Clock
from milpasses.tuning.learned import LearnedVector, learned
from milpasses.tuning.objective import are_probabilities, compared
from milpasses.tuning.targets import outputs_of
from milpasses.tuning.training import Trainer

APART = 4  # every so many-th sample is held out
_VECTORS = ("bias", "beta", "gamma")
_CODE_RATE = 0.005  # as that of blocks; outputs alone say less of each code
_SHARES = {"blocks": 0.45, "tables": 0.75, "codes": 1.0}  # of the time, by when each stage ends


@attrs.define(eq=False)
class Task:
    """The float program, the compressed one, and the samples."""

    teacher: SavedProgram
    given: SavedProgram
    inputs: list[Any]
    function: str | None
    device: str
    batch: int
    seed: int

    def learn(self, report: Report, steps: int, clock: Clock, until: float) -> dict[Site, list[OpSpec]]:
        """The ops of each site that learned, once that share of the time is spent; notes what was gained."""
        clock.tell("reading the outputs of the float model")
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
        targets = outputs_of(BatchRun(floats, [named[var.name] for var in outputs]), stacked, self.batch)
        sites, originals = self._learners(interpreter.function_name)
        places = range(len(self.inputs))
        trainer = Trainer(
            interpreter, run, {names: one for (_, names), one in sites.items()}, stacked, targets,
            [are_probabilities(var) for var in outputs],
            [i for i in places if i % APART != 1], [i for i in places if i % APART == 1],
            self.batch, self.seed,
        )  # fmt: skip
        unreached = trainer.check_gradients()
        if unreached:
            report.notes.append(f"not tuned, no gradient reaches them: {', '.join(unreached)}")
        for (site, _), one in sites.items():
            if site.existing is not None:
                one.free(originals[site])
        self._stages(trainer, floats, report, steps, clock, until)
        return {site: self._specs(site, one) for (site, _), one in sites.items()}

    def _stages(
        self, trainer: Trainer, floats: Interpreter, report: Report, steps: int, clock: Clock, until: float
    ) -> None:
        """Blocks, then all tables together, then codes as well; no held-out output becomes worse."""
        names = [var.name for var in trainer.run.variables]
        start, kept, begin = trainer.score(), trainer.snapshot(), clock.spent
        if not all(map(math.isfinite, start.losses)):
            raise MilpassesError("the loss is not finite: an output overflows float16, or a sample holds NaN")
        best = start
        for name, share in _SHARES.items():
            end = begin + share * (until - begin)
            if name == "blocks":
                count = reconstruct(trainer, floats, steps, clock, end)
                if count == 1:
                    continue
                now = trainer.score()
                if not sum(now.losses) < sum(best.losses):
                    trainer.restore(kept)
                    now = best
                name = f"{count} blocks"
            else:
                now = trainer.learn(
                    start, clock.stage(name, steps, end), _CODE_RATE if name == "codes" else 0.0
                )
            report.notes.append(_gain(name, names, best, now, len(trainer.held_out)))
            best = now
        if best.rank(start)[0]:
            trainer.restore(kept)
            report.notes.append("nothing is tuned: some output would be worse on the held-out samples")

    def _learners(self, function: str) -> tuple[dict[Any, Any], dict[Site, Any]]:
        """What learns, by site and the variables that it is; and the float weights."""
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


def _gain(stage: str, names: list[str], before: Any, after: Any, count: int) -> str:
    """A sentence of the report."""
    changes = ", ".join(
        f"{name} {a:.2f} -> {b:.2f} dB"
        for name, a, b in zip(names, before.decibels, after.decibels, strict=True)
    )
    return f"tuned {stage}: {changes} on {count} held-out samples"
