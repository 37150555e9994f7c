"""What ``explain`` found, as data. Imports nothing heavy."""

from collections.abc import Callable
from enum import Enum
from math import prod
from typing import TYPE_CHECKING, Any

import attrs

from milpasses_tools._output import json_decibels
from milpasses_tools._view.features import Function

if TYPE_CHECKING:
    from milpasses.activations.existing import StoredPair
    from milpasses_tools._explain.advice import Finding
    from milpasses_tools._explain.plan import Plan


class Sort(str, Enum):
    """The order of the weights."""

    BYTES = "bytes"
    NAME = "name"
    FORM = "form"


@attrs.frozen
class StoredWeight:
    """A weight as it is stored.

    ``form``: ``dense float16``, ``lut4 per_grouped_channel(16)``, ... ``why`` says why a weight is not
    compressed, and is empty where it is; ``note`` is then what compression had to say. ``rule`` is what
    decided: the rule of the recipe in the model's own report, or its default, with the scheme. ``change`` is
    what would change it. ``used_by`` holds texts ``op name:op type.parameter``. ``sqnr_db`` is what
    compression cost it, where the model's own report tells.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    form: str
    nbytes: int
    used_by: tuple[str, ...]
    functions: tuple[str, ...]
    compressed: bool
    why: str = ""
    sqnr_db: float | None = None
    rule: str = ""
    change: str = ""
    note: str = ""

    @property
    def bits(self) -> float:
        """Stored bits for each element."""
        return 8 * self.nbytes / max(prod(self.shape), 1)

    @property
    def op_types(self) -> tuple[str, ...]:
        """The types of the ops that use it."""
        return tuple(dict.fromkeys(use.rpartition(":")[2].partition(".")[0] for use in self.used_by))


@attrs.frozen
class FormTotal:
    """All weights of one form; ``share`` is of the bytes of all weights."""

    form: str
    count: int
    nbytes: int
    share: float


@attrs.frozen
class Explanation:
    """What ``explain`` found. ``files`` are bytes on disk: weight files, specification, other files.

    ``plan`` is what a recipe would do, if one was given; ``findings`` is what users reported of the forms in
    the model (in the plan, if there is one) on the units that were asked for.
    ``activations`` are the tensors that are quantized.
    """

    model: str
    target: str
    functions: tuple[Function, ...]
    weights: tuple[StoredWeight, ...]
    files: dict[str, int]
    recipe: str = ""
    version: str = ""
    plan: "Plan | None" = None
    units: tuple[str, ...] = ()
    findings: "tuple[Finding, ...]" = ()
    activations: "tuple[StoredPair, ...]" = ()

    @property
    def weight_bytes(self) -> int:
        """Stored bytes of all weights."""
        return sum(weight.nbytes for weight in self.weights)

    def share(self, nbytes: int) -> float:
        """``nbytes`` as a part of the bytes of all weights, 0 to 1."""
        return nbytes / max(self.weight_bytes, 1)

    def by_form(self) -> tuple[FormTotal, ...]:
        """Totals of each form, the largest first."""
        groups: dict[str, list[int]] = {}
        for weight in self.weights:
            groups.setdefault(weight.form, []).append(weight.nbytes)
        totals = [
            FormTotal(form, len(each), sum(each), self.share(sum(each))) for form, each in groups.items()
        ]
        return tuple(sorted(totals, key=lambda total: (-total.nbytes, total.form)))

    def sorted(self, by: Sort | str = Sort.BYTES) -> tuple[StoredWeight, ...]:
        """The weights, largest first, or by name, or by form and then largest first."""
        keys: dict[Sort, Callable[[StoredWeight], Any]] = {
            Sort.BYTES: lambda weight: -weight.nbytes,
            Sort.NAME: lambda weight: weight.name,
            Sort.FORM: lambda weight: (weight.form, -weight.nbytes),
        }
        return tuple(sorted(self.weights, key=keys[Sort(by)]))

    def to_dict(self, weights: "tuple[StoredWeight, ...] | None" = None) -> dict[str, Any]:
        """Everything as plain values for JSON; ``weights`` replaces the list of weights."""
        return {
            "model": self.model,
            "target": self.target,
            "recipe": self.recipe,
            "milpasses": self.version,
            "functions": [attrs.asdict(function) for function in self.functions],
            "forms": [attrs.asdict(total) for total in self.by_form()],
            "weight_bytes": self.weight_bytes,
            "files": self.files,
            "weights": [
                {
                    **attrs.asdict(weight),
                    "bits": round(weight.bits, 4),
                    "share": round(self.share(weight.nbytes), 6),
                    "sqnr_db": json_decibels(weight.sqnr_db),
                }
                for weight in (self.weights if weights is None else weights)
            ],
            "plan": None if self.plan is None else self.plan.to_dict(),
            "units": list(self.units),
            "findings": [finding.to_dict() for finding in self.findings],
            "activations": [attrs.asdict(pair) for pair in self.activations],
        }


def join_parts(parts: dict[str, Explanation]) -> Explanation:
    """One explanation of a pipeline, whose weights and functions are called ``part/name``."""
    from milpasses.report import Report

    first = next(iter(parts.values()))
    plans = {name: each.plan for name, each in parts.items() if each.plan is not None}
    planned = tuple(
        attrs.evolve(one, record=attrs.evolve(one.record, name=f"{name}/{one.record.name}"))
        for name, plan in plans.items()
        for one in plan.weights
    )
    refused = "; ".join(f"{name}: {plan.refused}" for name, plan in plans.items() if plan.refused)
    return attrs.evolve(
        first,
        target=", ".join(dict.fromkeys(each.target for each in parts.values())),
        functions=tuple(
            attrs.evolve(function, name=f"{name}/{function.name}")
            for name, each in parts.items()
            for function in each.functions
        ),
        weights=tuple(
            attrs.evolve(weight, name=f"{name}/{weight.name}")
            for name, each in parts.items()
            for weight in each.weights
        ),
        plan=first.plan
        and attrs.evolve(
            first.plan,
            weights=planned,
            totals=Report(records=[one.record for one in planned]).totals(),
            refused=refused,
        ),
        activations=tuple(
            attrs.evolve(pair, name=f"{name}/{pair.name}")
            for name, each in parts.items()
            for pair in each.activations
        ),
        findings=tuple(finding for each in parts.values() for finding in each.findings),
    )
