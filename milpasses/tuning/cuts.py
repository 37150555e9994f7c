"""Where a program is cut into blocks: at variables through which all passes that learned weights make."""

from collections.abc import Collection, Sequence
from typing import Any

from milpasses.interpreter.plan import Step, read_by


def find_cuts(
    steps: Sequence[Step], outputs: Sequence[Any], learned: Collection[str], most: int
) -> list[Any]:
    """Variables that cut ``steps`` into at most ``most`` blocks, in order; none where no single tensor flows.

    What does not depend on a weight of ``learned`` (names of variables), such as a mask made of an input, may
    pass beside the cut: it is the same in the float program. Between two ops that take learned weights the
    last possible cut is taken, so that a block ends with what follows its weights. ``outputs``: what the
    steps are for; one that is there before the end stands beside every later cut, so that there is none.
    """
    last = {var: index for index, step in enumerate(steps) for var in read_by(step.op)}
    last.update(dict.fromkeys(outputs, len(steps)))
    live: list[Any] = []  # depend on learned weights, and are still needed
    dependent: set[Any] = set()
    cuts: list[Any] = []
    weights: list[int] = []  # how many ops with learned weights each block holds, the one under way last
    candidate, fresh = None, 0
    for index, step in enumerate(steps):
        reads = read_by(step.op)
        takes = any(var.name in learned for var in reads)
        if takes:
            if candidate is not None and fresh:
                cuts.append(candidate)
                weights.append(fresh)
                fresh = 0
            candidate = None
            fresh += 1
        if takes or not dependent.isdisjoint(reads):
            dependent.update(step.outputs)
            live += step.outputs
        live = [var for var in live if last.get(var, -1) > index]
        if len(live) == 1 and fresh:
            candidate = live[0]
    return _fewer(cuts, [*weights, fresh], most)


def _fewer(cuts: list[Any], weights: list[int], most: int) -> list[Any]:
    """The cuts without those between blocks that together hold fewest weights, until ``most`` are left."""
    while len(weights) > most:
        first = min(range(len(cuts)), key=lambda place: weights[place] + weights[place + 1])
        weights[first : first + 2] = [weights[first] + weights[first + 1]]
        del cuts[first]
    return cuts
