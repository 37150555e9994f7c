"""The first NaN or infinity that a program makes and the reference does not.

Infinities are not wrong by themselves: attention masks with minus infinity are common. What counts is an op
that makes one where the same op of the reference makes none.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import attrs
import numpy as np

from milpasses_tools._bisect.measure import Outputs
from milpasses_tools._compare.comparison import NonFinite

if TYPE_CHECKING:
    from milpasses.data.samples import Sample
    from milpasses_tools._compare.runners import PipelineReference, Reference

Kind = Literal["nan", "inf"]


@attrs.define(eq=False)
class ReferenceNonFinite:
    """What the reference makes that is not finite: samples, ops, and kinds. An observer.

    ``functions``: what runs, by part of a pipeline (``""`` where there is none).
    """

    functions: Mapping[str, Any]
    sample: str = ""
    seen: set[tuple[str, Any, Kind]] = attrs.field(factory=set)

    def __call__(self, op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        self.seen.update((self.sample, op, kind) for value in outputs for kind in _kinds(value))


@attrs.define(eq=False)
class NewNonFinite:
    """Observer that keeps the first NaN or infinity of ``functions`` that ``reference`` did not make.

    Of an op without a counterpart in the reference it is new where no input of the op holds one.
    """

    functions: Mapping[str, Any]
    reference: ReferenceNonFinite
    sample: str = ""
    found: NonFinite | None = None
    _counterparts: dict[Any, Any] | None = None

    def __call__(self, op: Any, inputs: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        if self.found is not None:
            return
        for variable, value in zip(op.outputs, outputs, strict=True):
            for kind in _kinds(value):
                if not self._expected(op, kind, inputs):
                    self.found = NonFinite("b", kind, self.sample, variable.name, op.name, op.op_type)
                    return

    def _expected(self, op: Any, kind: Kind, inputs: Mapping[str, Any]) -> bool:
        counterpart = self._counterpart(op)
        if counterpart is None:
            return any(kind in _kinds(value) for given in inputs.values() for value in _flat(given))
        return (self.sample, counterpart, kind) in self.reference.seen

    def _counterpart(self, op: Any) -> Any:
        from milpasses_tools._compare.match import match

        if self._counterparts is None:  # only programs that make something not finite are matched
            self._counterparts = {
                pair.b: pair.a
                for part, function in self.functions.items()
                for pair in match(self.reference.functions[part], function).pairs
            }
        return self._counterparts.get(op)


def run_observed(
    runner: "Reference | PipelineReference",
    samples: "Iterable[Sample]",
    observer: "ReferenceNonFinite | NewNonFinite",
) -> list[Outputs]:
    """The outputs of every sample, in order; ``observer`` sees what the ops make."""
    made: list[Outputs] = []
    for sample in samples:
        observer.sample = sample.name
        made.append(runner.run(sample.inputs, [observer]))
    return made


def _kinds(value: Any) -> list[Kind]:
    """What of NaN and infinity an array holds."""
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return []
    with np.errstate(all="ignore"):
        if np.isfinite(value.sum(dtype=np.float32)):  # quick: one pass without a temporary
            return []
    held: dict[Kind, Any] = {"nan": np.isnan(value), "inf": np.isinf(value)}
    return [kind for kind, places in held.items() if places.any()]


def _flat(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else (value,)
