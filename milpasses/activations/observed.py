"""One run of a function over calibration samples: what is needed to choose ranges, and who is held out.

Every fourth sample is held out, in an order that follows from what samples hold: the same samples in another
order are divided alike.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import attrs

from milpasses.data.histograms import Histogram, joined
from milpasses.data.moments import Range
from milpasses.data.observers import RangeObserver
from milpasses.data.samples import Samples
from milpasses.interpreter import Interpreter

HELD_OUT = 4  # every so many-th sample
ENOUGH = 8  # samples: with fewer none is held out
MOST, FEWEST = 32, 2  # held-out samples that decide
_WORK = 2_000_000_000  # values that held-out runs may compute, so that a large network has fewer samples

Observe = Callable[[Any, Mapping[str, Any], Sequence[Any]], None]
Progress = Callable[[int, int | None, str], None]


@attrs.define(eq=False)
class Observed:
    """``interpreter`` has run over ``samples``; ``held_out``: the places of those that decide, in order.

    ``ranges``: of every activation in all samples. ``fit`` and ``others``: histograms of the wanted ones, in
    the samples that suggest ranges and in those held out.
    """

    interpreter: Interpreter
    samples: Samples
    held_out: tuple[int, ...]
    count: int
    ranges: dict[str, Range]
    fit: dict[str, Histogram]
    others: dict[str, Histogram]

    @property
    def histograms(self) -> dict[str, Histogram]:
        """Of all samples."""
        return joined(self.fit, self.others)

    def deciding(self, runs: int) -> list[dict[str, Any]]:
        """The inputs of held-out samples of which each may run ``runs`` times, by what a run computes."""
        computed = sum(histogram.total / histogram.samples for histogram in self.fit.values())
        limit = min(max(int(_WORK / max(computed * runs, 1)), FEWEST), MOST)
        chosen = frozenset(self.held_out[:limit])
        return [sample.inputs for sample in self.samples.at(chosen)] if chosen else []


def observe(
    interpreter: Interpreter,
    data: Any,
    tensors: Collection[str],
    *,
    observers: Sequence[Observe] = (),
    progress: Progress | None = None,
) -> Observed:
    """Run ``interpreter`` over ``data``, whatever ``Samples.of`` takes but an iterator: it is read twice.

    ``tensors``: those with histograms. ``observers`` see the samples that are not held out.
    """
    samples = Samples.of(data, interpreter)
    order = samples.sorted_places()
    held_out = tuple(order[1::HELD_OUT]) if len(order) >= ENOUGH else ()
    fit: dict[str, Histogram] = {}
    others: dict[str, Histogram] = {}
    ranges, apart = RangeObserver(tensors), frozenset(held_out)
    for place, sample in enumerate(samples):
        held = place in apart
        ranges.begin(others if held else fit)
        watching = [ranges] if held else [ranges, *observers]
        interpreter.run(sample.inputs, interpreter.make_state(), watching)
        if progress is not None:
            progress(place + 1, len(order), sample.name)
    return Observed(interpreter, samples, held_out, len(order), ranges.ranges, fit, others)
