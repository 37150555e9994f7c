"""How the values of weights are distributed, and how often each of their codes is used."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from milpasses.encoding.encodings import Array, Encoding, Palettized, Quantized, Scaled, Sparse
from milpasses.errors import MilpassesError
from milpasses_tools._view.graph import GraphView, Weight

_MOST_SAMPLES = 1 << 18
_BINS = 48


def histograms(weight: Weight, original: Weight | None = None) -> dict[str, Any] | None:
    """Counts of the decoded values in equal bins, over at most 2**18 of them; None if unreadable.

    With ``original``, that weight before it was compressed, ``before`` counts its values in the same bins.
    NaN and infinite values are left out.
    """
    after = _values(weight)
    before = None if original is None else _values(original)
    if after is None or not after.size:
        return None
    both = after if before is None else np.concatenate([after, before])
    span = (float(both.min()), float(both.max()))
    counts, edges = np.histogram(after, _BINS, span)
    found = {"counts": counts.tolist(), "low": float(f"{edges[0]:.4g}"), "high": float(f"{edges[-1]:.4g}")}
    if before is not None:
        found["before"] = np.histogram(before, _BINS, span)[0].tolist()
    return found


def _values(weight: Weight) -> NDArray[np.float64] | None:
    """Evenly spaced values of ``weight``; None for a form that this code cannot decode."""
    try:
        values = np.asarray(weight.load()).reshape(-1)
    except Exception:  # newer than this code, or damaged: its place on the map stays
        return None
    values = values[:: max(1, -(-values.size // _MOST_SAMPLES))].astype(np.float64)
    return values[np.isfinite(values)]


def code_usage(read: Callable[[], Encoding]) -> dict[str, Any] | None:
    """How often each code is stored: ``first`` is the lowest, then a count for each; None without codes.

    All tables of a grouped palette count together; under a sparse mask only what is kept counts.
    """
    try:
        return _code_usage(read())
    except (MilpassesError, KeyError, ValueError):  # a form that this code does not know
        return None


def _code_usage(encoding: Encoding) -> dict[str, Any] | None:
    if isinstance(encoding, Scaled):
        return _code_usage(encoding.inner)
    if isinstance(encoding, Sparse):
        values = encoding.values
        if not isinstance(values, Quantized | Palettized) or values.codes.shape != encoding.mask.shape:
            return None
        return _usage(values, values.codes[encoding.mask != 0])
    return _usage(encoding, encoding.codes) if isinstance(encoding, Quantized | Palettized) else None


def _usage(encoding: Quantized | Palettized, codes: Array) -> dict[str, Any]:
    if isinstance(encoding, Palettized):
        first, count = 0, 1 << encoding.nbits
    else:
        count = 1 << int(encoding.dtype.lstrip("uint"))
        first = 0 if encoding.dtype.startswith("u") else -(count // 2)
    used = np.bincount(codes.reshape(-1).astype(np.int64) - first, minlength=count)
    return {"first": first, "counts": used.tolist()}


def encodings_of(model: Any) -> dict[str, Callable[[], Encoding]]:
    """What reads the encoding of each compressed weight of a program, package or ``MLModel``, by its name."""
    from coremltools.converters.mil.mil import Program

    if isinstance(model, Program):
        from milpasses.program.memory import MemoryProgram

        sites = MemoryProgram(model).sites()
    else:
        from milpasses.program.saved import SavedProgram
        from milpasses_tools._models import open_readable

        sites = SavedProgram(open_readable(model)).sites()
    return {site.weight.name: site.existing for site in sites if site.existing is not None}


def originals_of(view: GraphView, original: GraphView) -> Mapping[str, Weight]:
    """The weights of ``original`` that ``view`` has too, by name; ``MilpassesError`` if there is none."""
    known = {weight.name: weight for weight in original.weights()}
    found = {
        weight.name: known[weight.name]
        for weight in view.weights()
        if weight.name in known and known[weight.name].shape == weight.shape
    }
    if not found:
        raise MilpassesError(f"{original.source}: no weight has the name and shape of one of {view.source}")
    return found
