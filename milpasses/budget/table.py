"""What each candidate costs each weight, in bytes and in damage: the table that a budget is fitted from."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs

from milpasses.errors import MilpassesError

_VERSION = 1


@attrs.frozen
class Option:
    """One form that a weight may get.

    ``scheme`` is its text (``pal4-g16``; ``keep`` leaves the weight as it is). ``nbytes``: what the weight
    file pays for it, records and padding included. ``damage``: the share of the energy of the model's outputs
    that becomes error if this weight alone has the form; see ``Sensitivity``. ``share``: the same of the
    outputs of the ops that use the weight. ``sqnr_db``: of the weight; None where nothing is lost.
    """

    scheme: str
    form: str
    nbytes: int
    damage: float
    share: float
    sqnr_db: float | None = None


@attrs.frozen
class WeightOptions:
    """A weight and its options; the first is how it is now, unless a rule pins it to one.

    ``content``: its shape and a digest of its values. ``basis``: ``measured`` (the model ran with each
    option), ``statistics``, ``lookups`` or ``weight``: what the options' ``share`` comes from. ``gain``:
    damage / share. ``refused``: candidates that do not apply, and why.
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
        return next((one for one in self.options if one.scheme == scheme), None)


@attrs.frozen
class Sensitivity:
    """The options of every weight that has any.

    A damage d is a share of the energy of the model's outputs: -10 log10(d) is their signal-to-noise ratio
    in dB. Errors of different weights are taken to be uncorrelated, so that damages add up.
    ``how``: ``exact`` (the model ran once for each weight and candidate), ``probed`` (once for each weight;
    the other candidates in proportion to the error of the ops that use it), or ``layers`` (not at all: the
    sum over the weights of the share of error in the outputs of the ops that use each: a ranking, and an
    upper bound of nothing).

    ``elements``: of all constants. ``fixed_bytes``: of what is not to be decided: constants that no
    candidate applies to, pinned weights apart. ``data``: what was run.
    """

    weights: tuple[WeightOptions, ...]
    candidates: tuple[str, ...]
    elements: int
    fixed_bytes: int
    how: str
    data: str = ""

    def __iter__(self) -> Iterator[WeightOptions]:
        return iter(self.weights)

    def __len__(self) -> int:
        return len(self.weights)

    def __getitem__(self, name: str) -> WeightOptions:
        for one in self.weights:
            if one.name == name:
                return one
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
                "damage": option.damage,
                "share": option.share,
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
        return {"milpasses_sensitivity": _VERSION, **attrs.asdict(self)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> "Sensitivity":
        """Read what ``to_dict`` gave; raises ``MilpassesError`` if it is something else."""
        try:
            if content["milpasses_sensitivity"] != _VERSION:
                raise MilpassesError(
                    f"a sensitivity table of version {content['milpasses_sensitivity']}; this milpasses "
                    f"reads version {_VERSION}: compute it again"
                )
            weights = tuple(_weight(**one) for one in content["weights"])
            rest = {name: content[name] for name in ("elements", "fixed_bytes", "how", "data")}
            return cls(weights, tuple(content["candidates"]), **rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise MilpassesError(f"not a sensitivity table, or damaged ({error})") from None

    @classmethod
    def of(cls, value: Any) -> "Sensitivity":
        """A table, or the path of a JSON file that ``milpasses sensitivity --json`` printed."""
        if isinstance(value, Sensitivity):
            return value
        if not isinstance(value, str | os.PathLike):
            raise MilpassesError(f"sensitivity: expected a table or the path of one, not {value!r}")
        path = Path(value)
        try:
            return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except OSError as error:
            raise MilpassesError(f"{path}: {error.strerror}") from None
        except ValueError as error:
            raise MilpassesError(f"{path}: {error}") from None


def _weight(shape: Iterable[int], options: Iterable[Mapping[str, Any]], **fields: Any) -> WeightOptions:
    return WeightOptions(shape=tuple(shape), options=tuple(Option(**one) for one in options), **fields)
