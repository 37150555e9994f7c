"""Block reconstruction: one block after another learns to make of what reaches it what the float block makes.

BRECQ (Li et al., ICLR 2021) for any program: see ``find_cuts`` for the blocks.
"""

from collections.abc import Mapping
from typing import Any

import attrs
import torch

from milpasses.interpreter import Interpreter
from milpasses.interpreter.batch import BatchRun
from milpasses.interpreter.plan import read_by
from milpasses.tuning.clock import Clock
from milpasses.tuning.cuts import find_cuts
from milpasses.tuning.learned import LearnedVector
from milpasses.tuning.objective import are_probabilities
from milpasses.tuning.targets import outputs_of
from milpasses.tuning.training import Trainer

_MOST = 12  # blocks
_ROOM, _COPIES = 1 << 30, 3  # bytes for what flows between blocks: what is seen, its float values, the next
_LEAST = 8  # samples
_CODE_RATE = 0.01  # a step, in steps between codes
_TABLES = 0.35  # of the time and steps of a block, before its codes move as well


def reconstruct(whole: Trainer, floats: Interpreter, steps: int, clock: Clock, until: float) -> int:
    """Learn block by block what ``whole`` learns, from the float program; returns the number of blocks.

    Each block sees what the blocks before it make, already tuned, and is to make what the float program has
    in that place. It keeps what is best on the held-out samples there. A program that is one block is left
    to the stages that follow.
    """
    weights = {
        name for names, one in whole.learned.items() if not isinstance(one, LearnedVector) for name in names
    }
    cuts = find_cuts(whole.run.steps, whole.run.variables, weights, _MOST)
    if not cuts:
        return 1
    whole = _fewer_samples(whole, BatchRun(whole.interpreter, cuts))
    theirs = {var.name: var for step in floats.main_plan.steps for var in step.outputs}
    theirs |= {var.name: var for var in floats.main_plan.inputs}
    seen, float_seen = dict(whole.inputs), dict(whole.inputs)
    begin, count = clock.spent, len(cuts) + 1
    for index, ends in enumerate([*([cut] for cut in cuts), whole.run.variables]):
        given = [*whole.interpreter.main_plan.inputs, *cuts[index - 1 : index]]
        run = BatchRun(whole.interpreter, ends, given)
        float_run = BatchRun(floats, [theirs[var.name] for var in ends], [theirs[v.name] for v in given])
        targets = outputs_of(float_run, float_seen, whole.batch)
        trainer = attrs.evolve(
            whole,
            run=run,
            learned=_of_block(run, whole.learned),
            inputs=seen,
            targets=targets,
            probabilities=[are_probabilities(var) for var in ends],
        )
        end = begin + (until - begin) * (index + 1) / count
        _learn_block(trainer, f"block {index + 1} of {count}", steps, clock, end)
        if index < len(cuts):
            name = cuts[index].name
            seen = {**whole.inputs, name: outputs_of(run, seen, whole.batch)[0]}
            float_seen = {**whole.inputs, name: targets[0]}
    return count


def _fewer_samples(whole: Trainer, run: BatchRun) -> Trainer:
    """With as many of the samples as there is room for what the widest cut of ``run`` makes of them."""
    with torch.no_grad():
        widest = max(cut.numel() for cut in run({name: rows[:1] for name, rows in whole.inputs.items()}))
    most = max(_LEAST, _ROOM // (_COPIES * widest * 4))
    inputs = {name: rows[:most] for name, rows in whole.inputs.items()}
    fit, held_out = ([i for i in places if i < most] for places in (whole.fit, whole.held_out))
    return attrs.evolve(whole, inputs=inputs, fit=fit, held_out=held_out)


def _learn_block(trainer: Trainer, name: str, steps: int, clock: Clock, end: float) -> None:
    begin, start = clock.spent, trainer.score()
    few = max(1, round(_TABLES * steps))
    trainer.learn(start, clock.stage(name, few, begin + _TABLES * (end - begin)))
    trainer.learn(start, clock.stage(name, max(1, steps - few), end), _CODE_RATE)
    trainer.apply()


def _of_block(run: BatchRun, learned: Mapping[tuple[str, ...], Any]) -> dict[tuple[str, ...], Any]:
    """What learns of the steps of ``run``."""
    names = {var.name for step in run.steps for var in read_by(step.op)}
    return {own: one for own, one in learned.items() if not names.isdisjoint(own)}
