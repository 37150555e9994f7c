"""What each candidate stores of each weight, and the error that it makes: what a budget is fitted from."""

import json
import os
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import attrs

from milpasses.errors import MilpassesError, shown

_VERSION = 2


@attrs.frozen
class Option:
    """One form that a weight may get.

    ``scheme`` is its text (``pal4-g16``; ``keep`` leaves the weight as it is). ``nbytes``: what the weight
    file pays for it, records and padding included. ``output_error``: the share of the energy of the model's
    outputs that becomes error if this weight alone has the form; see ``Sensitivity``. ``layer_error``: the
    same of the outputs of the ops that use the weight. ``sqnr_db``: of the weight; None if nothing is lost.
    """

    scheme: str
    form: str
    nbytes: int
    output_error: float
    layer_error: float
    sqnr_db: float | None = None


@attrs.frozen
class WeightOptions:
    """A weight and its options; the first is how it is now, unless a rule pins it to one.

    ``content``: its shape and a digest of its values. ``basis``: ``measured`` (the model ran with each
    option), ``statistics``, ``lookups`` or ``weight``: what the options' ``layer_error`` comes from.
    ``gain``: output error / layer error. ``refused``: candidates that do not apply, and why.
    """

    name: str
    content: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    options: tuple[Option, ...]
    basis: str
    gain: float = 1.0
    pinned: bool = False
    refused: dict[str, str] = attrs.field(factory=dict)

    @property
    def size(self) -> int:
        """Number of elements."""
        size = 1
        for length in self.shape:
            size *= length
        return size

    def option(self, scheme: str) -> Option | None:
        """The option of a candidate, or None if it was refused."""
        return next((option for option in self.options if option.scheme == scheme), None)


@attrs.frozen
class Sensitivity:
    """The options of every weight that has any.

    An output error e is a share of the energy of the model's outputs: -10 log10(e) is their signal-to-noise
    ratio in dB. Errors of different weights are taken to be uncorrelated, so that they add up.
    ``how``: ``exact`` (the model ran once for each weight and candidate), ``probed`` (once for each weight;
    the other candidates in proportion to the error of the ops that use it), or ``layers`` (not at all: the
    sum over the weights of the share of error in the outputs of the ops that use each: a ranking, and an
    upper bound of nothing).

    ``elements``: of all constants. ``fixed_bytes``: of what is not to be decided: constants that no
    candidate applies to, pinned weights apart. ``data``: what was run. ``notes``: what was done to the model
    first.
    """

    weights: tuple[WeightOptions, ...]
    candidates: tuple[str, ...]
    elements: int
    fixed_bytes: int
    how: str
    data: str = ""
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[WeightOptions]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, name: str) -> WeightOptions:
        for weight in self.weights:
            if weight.name == name:
                return weight
        raise KeyError(f"no weight {name!r} in the table")

    def rows(self) -> list[dict[str, Any]]:
        """A flat dictionary for each weight and option, ready for a table, a DataFrame or CSV."""
        return [
            {
                "weight": weight.name,
                "shape": "x".join(map(str, weight.shape)),
                "candidate": option.scheme,
                "form": option.form,
                "bytes": option.nbytes,
                "saved": weight.nbytes - option.nbytes,
                "bits": round(8 * option.nbytes / max(weight.size, 1), 4),
                "output_error": option.output_error,
                "layer_error": option.layer_error,
                "sqnr_db": option.sqnr_db,
                "gain": weight.gain,
                "basis": weight.basis,
                "pinned": weight.pinned,
            }
            for weight in self.weights
            for option in weight.options
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which ``from_dict`` reads back."""
        return {"milpasses_sensitivity": _VERSION, **_converter().unstructure(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Sensitivity":
        """Read what ``to_dict`` gave; raises ``MilpassesError`` if it is something else."""
        import cattrs

        try:
            version = content["milpasses_sensitivity"]
        except (KeyError, TypeError) as error:
            raise MilpassesError(f"not a sensitivity table, or damaged ({error})") from None
        if version != _VERSION:
            raise MilpassesError(
                f"a sensitivity table of version {version}; this milpasses reads version {_VERSION}: "
                "compute it again"
            )
        try:
            fields = {name: value for name, value in content.items() if name != "milpasses_sensitivity"}
            return _converter().structure(fields, cls)
        except cattrs.BaseValidationError as error:
            faults = "; ".join(cattrs.transform_error(error))
            raise MilpassesError(f"not a sensitivity table, or damaged ({faults})") from None

    @classmethod
    def of(cls, value: Any) -> "Sensitivity":
        """A table, or the path of a JSON file that ``milpasses sensitivity --json`` printed."""
        if isinstance(value, Sensitivity):
            return value
        if not isinstance(value, str | os.PathLike):
            raise MilpassesError(f"sensitivity: expected a table or the path of one, not {shown(value)}")
        path = Path(value)
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise MilpassesError(f"{path}: {error.strerror}") from None
        except (ValueError, RecursionError) as error:
            raise MilpassesError(f"{path}: {error}") from None


@cache
def _converter() -> Any:
    """To and from JSON's values: a field is a key of its own name, and every key a field."""
    from cattrs.preconf.json import make_converter  # not before a table is read or written

    return make_converter(forbid_extra_keys=True)
