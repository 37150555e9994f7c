"""What the samples of a sweep cannot tell: random ones nothing of accuracy, few ones no small loss."""

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from milpasses.errors import MilpassesError
from milpasses_tools._compare.comparison import Kind
from milpasses_tools._compare.metrics import kind_of, primary_output
from milpasses_tools._sweep.choice import LEVEL, SHARES, Choice, Limit, exact_bound, pareto

if TYPE_CHECKING:
    from milpasses_tools._compare.runners import Runner
    from milpasses_tools._sweep.data import Prepared

OUTPUT_SNR = "output SNR"
_MOST_NAMES = 8


class FewSamplesWarning(UserWarning):
    """A sweep has too few samples to show the loss that it was asked to keep."""


def check_random(limit: Limit, by: str | None) -> None:
    """Raise ``MilpassesError`` where a loss of accuracy was asked for on random data."""
    if by in SHARES:
        raise MilpassesError(f"by={by}: random data says nothing of it; give real samples (data=)")
    if limit.kind == "loss" and limit.asked and by is None:
        raise MilpassesError(
            f"{limit}: random data cannot tell what accuracy is lost; give real samples (data=), or a "
            "max_size= to take the best outputs of that size"
        )


def samples_needed(points: float) -> int:
    """How many samples show, where none of them differs, that at most ``points`` hundredths do, at 95 %."""
    return math.ceil(math.log(1 - LEVEL / 100) / math.log1p(-points / 100)) if 0 < points < 100 else 0


def too_few(limit: Limit, samples: int) -> str | None:
    """What to say before the work starts where ``samples`` cannot show the loss that was asked for."""
    best = 100 * exact_bound(samples)
    if limit.kind != "loss" or best <= limit.value:
        return None
    needed = samples_needed(limit.value)
    more = f"{needed:,} samples would be enough, if none of them differs" if needed else "no number can"
    return (
        f"{samples:,} samples cannot show that a variant keeps {limit}: even where none of them differs, "
        f"the {LEVEL} % bound of its loss is {best:.1f} points; {more}"
    )


def warn_of_few(limit: Limit, by: str | None, scores: str | None, runner: "Runner", data: "Prepared") -> None:
    """A ``FewSamplesWarning`` where the loss that was asked for is one of shares, and cannot be shown."""
    text = too_few(limit, len(data.measured)) if limit.asked and by in (None, *SHARES) else None
    if text is None or data.random:
        return
    sample = next(data.samples(data.measured[:1]))
    outputs = runner.run(sample.inputs)
    kinds: dict[str, Kind] = {name: kind_of(name, value, outputs, scores) for name, value in outputs.items()}
    if primary_output(kinds, scores) is not None:
        warnings.warn(text, FewSamplesWarning, stacklevel=2)


def rank(rows: Sequence[dict[str, Any]], limit: Limit) -> Choice | None:
    """The variants by the SNR of their outputs, which random data does tell; None where it was not measured.

    For a limit on the size the one with the best outputs is chosen, for one on the loss none: it is unknown.
    """
    measured = [row for row in rows[1:] if row["status"] == "done" and row["output_snr_db"] is not None]
    if rows[0]["status"] != "done" or not measured:
        return None
    samples = len(next(iter(rows[0]["each"].values()), []))
    snrs = [float(row["output_snr_db"]) for row in measured]
    sizes = [row["bytes"] for row in measured]
    front = tuple(measured[at]["name"] for at in pareto(sizes, snrs))
    fits = [at for at in range(len(measured)) if limit.kind == "size" and sizes[at] <= limit.value]
    best = max(fits, key=lambda at: (snrs[at], -sizes[at]), default=None)
    order = sorted(range(len(measured)), key=lambda at: (-snrs[at], sizes[at]))
    listed = ", ".join(f"{measured[at]['name']} {_decibels(snrs[at])}" for at in order[:_MOST_NAMES])
    more = f" and {len(order) - _MOST_NAMES:,} more" if len(order) > _MOST_NAMES else ""
    words = [f"accuracy is unknown: the data is random. By the SNR of their outputs: {listed}{more}"]
    if best is not None:
        words.insert(
            0,
            f"chosen: {measured[best]['name']}, {sizes[best]:,} bytes, "
            f"{rows[0]['bytes'] / sizes[best]:.2f} times smaller, outputs at {_decibels(snrs[best])}",
        )
    elif limit.kind == "size":
        at = min(range(len(sizes)), key=lambda at: sizes[at])
        words.insert(
            0, f"no variant keeps {limit}: the smallest is {measured[at]['name']}, {sizes[at]:,} bytes"
        )
    else:
        words.append(
            "nothing is chosen: real samples can show a loss, a limit on the size takes the best SNR"
        )
    chosen = None if best is None else measured[best]["name"]
    return Choice(OUTPUT_SNR, limit, chosen, front, {}, (), samples, tuple(words))


def _decibels(snr: float) -> str:
    return "exact" if snr == math.inf else f"{snr:.1f} dB"
