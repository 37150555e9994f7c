"""Which variant to take: the Pareto front, what a choice loses and how sure that is."""

import re
from collections.abc import Sequence
from typing import Any, Literal

import attrs
import numpy as np
from numpy.typing import NDArray

from milpasses.errors import MilpassesError, shown

SHARES = ("accuracy", "agreement")
DRAWS = 2000
LEVEL = 95
_MOST_NAMES = 8
_CHUNK = 1 << 24  # counts in memory at a time
_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_SIZE = re.compile(r"\s*([\d_,]*\.?\d+)\s*([a-z]*)\s*", re.IGNORECASE)


@attrs.frozen
class Limit:
    """What the choice must keep: a loss of at most ``value`` points, or at most ``value`` bytes.

    ``asked``: somebody gave it; else it is the default.
    """

    kind: Literal["loss", "size"]
    value: float
    asked: bool = True

    def __str__(self) -> str:
        return f"--max-loss {self.value:g}" if self.kind == "loss" else f"--max-size {self.value:,.0f}"


@attrs.frozen
class Interval:
    """What a variant loses against the original, and the 95 % interval of that.

    ``exact``: no sample differs, so the interval is the exact bound of that, not the bootstrap's.
    """

    loss: float
    low: float
    high: float
    exact: bool = False


@attrs.frozen
class Choice:
    """The variant to take, if any keeps the limit; the losses of all, the front, and what to know of it.

    ``measure``: what the loss is of: ``accuracy`` and ``agreement`` in points (hundredths), a metric in its
    own unit. ``alike``: the variants that the samples cannot tell from the chosen one. ``words``: the same
    for people, a sentence each.
    """

    measure: str
    limit: Limit
    chosen: str | None
    front: tuple[str, ...]
    losses: dict[str, Interval]
    alike: tuple[str, ...]
    samples: int
    words: tuple[str, ...]


def read_size(text: str) -> int:
    """``1.2MB``, ``900 KiB``, ``1_000_000`` in bytes; raises ``MilpassesError``."""
    found = _SIZE.fullmatch(text)
    unit = found[2].lower() if found else "?"
    if found is None or unit not in _UNITS:
        raise MilpassesError(
            f"--max-size takes bytes, or a number with KB, MB, GB, KiB, MiB, GiB; got {shown(text)}"
        )
    return int(min(float(found[1].replace(",", "").replace("_", "")) * _UNITS[unit], 2.0**62))


def choose(
    rows: Sequence[dict[str, Any]], limit: Limit, by: str | None, seed: int, draws: int = DRAWS
) -> Choice | None:
    """Choose among the finished ``rows``, the original first; None where nothing can be measured.

    1. Of what all have, ``by`` or the first of accuracy, agreement and the metrics is the measure.
    2. Its mean and that of every variant are drawn anew ``draws`` times from the same samples (the paired
       percentile bootstrap, Efron and Tibshirani 1993, chapter 13): the spread of the differences is the
       interval of a loss, and of the difference between two variants. Where no sample differs the bootstrap
       collapses to 0: then the exact bound stands (``exact_bound``).
    3. For a limit on the loss the smallest variant that keeps it is chosen, for one on the size the best that
       keeps it; of equals the one whose outputs are nearest to the original's (their SNR), and of these the
       one that gives the class that is right the highest probability (``own_class``).
    """
    rows = [row for row in rows if row["status"] == "done"]
    measure = _measure(rows, by)
    if measure is None:
        return None
    rows = [row for row in rows if _values(row, measure) is not None]
    scale = 100.0 if measure in SHARES else 1.0
    values = np.array([_values(row, measure) for row in rows], np.float64) * scale
    means = values.mean(axis=1)
    drawn = resampled(values, seed, draws)
    names = [row["name"] for row in rows]
    sizes = [row["bytes"] for row in rows]
    losses = {name: _loss(values, drawn, measure, at) for at, name in enumerate(names)}
    front = tuple(names[at] for at in pareto(sizes, list(means)))
    at = _chosen(sizes, means, [_closeness(row) for row in rows], limit)
    unit = "points" if measure in SHARES else "of it"
    if at is None:
        words = (_nothing(limit, names, sizes, losses, measure, unit),)
        return Choice(measure, limit, None, front, losses, (), values.shape[1], words)
    alike = tuple(
        name
        for other, name in enumerate(names)
        if other not in (0, at) and not _differ(_interval(means, drawn, at, other))
    )
    words = _words(names, sizes, at, losses, limit, alike, measure, unit, values.shape[1])
    return Choice(measure, limit, names[at], front, losses, alike, values.shape[1], words)


def _measure(rows: Sequence[dict[str, Any]], by: str | None) -> str | None:
    if not rows:
        return None
    original = rows[0]["each"]
    if by is not None:
        if by not in original or not _complete(original[by]):
            known = ", ".join(name for name in original if _complete(original[name])) or "nothing"
            raise MilpassesError(f"--by {by}: not measured for each sample; there is {known}")
        return by
    order = [*SHARES, *sorted(set(original) - set(SHARES))]
    return next((name for name in order if name in original and _complete(original[name])), None)


def _complete(values: list[Any]) -> bool:
    return bool(values) and all(isinstance(value, int | float) for value in values)


def _values(row: dict[str, Any], measure: str) -> list[float] | None:
    values = row["each"].get(measure)
    return values if values and _complete(values) else None


def resampled(values: NDArray[np.float64], seed: int, draws: int = DRAWS) -> NDArray[np.float64]:
    """Means [draws, variants] over samples drawn with replacement, the same for all variants.

    ``values`` [variants, samples] in float64.
    """
    rng = np.random.default_rng([seed, values.shape[1]])
    size = values.shape[1]
    step = max(1, _CHUNK // size)
    parts: list[NDArray[np.float64]] = []
    for start in range(0, draws, step):
        counts = rng.multinomial(size, np.full(size, 1 / size), min(step, draws - start))
        parts.append(np.einsum("ds,vs->dv", counts.astype(np.float64), values, optimize=False) / size)
    return np.concatenate(parts)


def _interval(means: Any, drawn: Any, a: int, b: int) -> Interval:
    """What ``b`` loses against ``a``."""
    tail = (100 - LEVEL) / 2
    low, high = np.percentile(drawn[:, a] - drawn[:, b], [tail, 100 - tail])
    return Interval(float(means[a] - means[b]), float(low), float(high))


def exact_bound(samples: int) -> float:
    """The largest share that may differ where none of ``samples`` does, at 95 %: 1 - 0.05 ** (1 / samples).

    The exact (Clopper-Pearson, 1934) one-sided bound of a binomial share with no success.
    """
    return 1 - (1 - LEVEL / 100) ** (1 / samples)


def _loss(values: NDArray[np.float64], drawn: Any, measure: str, at: int) -> Interval:
    """What the variant ``at`` loses against the original, which is the first."""
    if at and measure in SHARES and np.array_equal(values[0], values[at]):
        bound = 100 * exact_bound(values.shape[1])
        return Interval(0.0, -bound, bound, exact=True)
    return _interval(values.mean(axis=1), drawn, 0, at)


def _closeness(row: dict[str, Any]) -> tuple[float, float]:
    """What decides between equals, the less the better: by the outputs' SNR, then by ``own_class``."""
    snr, own = row.get("output_snr_db"), row.get("own_class")
    return -float("-inf" if snr is None else snr), -float("-inf" if own is None else own)


def _differ(interval: Interval) -> bool:
    return interval.low > 0 or interval.high < 0


def pareto(sizes: Sequence[float], scores: Sequence[float]) -> list[int]:
    """Indices, by size, of the variants than which none is as small and better, or smaller and as good."""
    order = sorted(range(len(sizes)), key=lambda at: (sizes[at], -scores[at], at))
    found: list[int] = []
    best = -np.inf
    for at in order:
        if scores[at] > best:
            found.append(at)
            best = scores[at]
    return found


def _chosen(
    sizes: Sequence[int], means: Any, closeness: Sequence[tuple[float, float]], limit: Limit
) -> int | None:
    """The index of the choice; the original, at 0, is one for a limit on the size alone."""
    if limit.kind == "size":
        fitting = [at for at in range(len(sizes)) if sizes[at] <= limit.value]
        return min(fitting, key=lambda at: (-means[at], closeness[at], sizes[at], at), default=None)
    kept = [at for at in range(1, len(sizes)) if means[0] - means[at] <= limit.value + 1e-9]
    smaller = [at for at in kept if sizes[at] < sizes[0]]
    return min(smaller, key=lambda at: (sizes[at], -means[at], closeness[at], at), default=None)


def _nothing(
    limit: Limit,
    names: Sequence[str],
    sizes: Sequence[int],
    losses: dict[str, Interval],
    measure: str,
    unit: str,
) -> str:
    if len(names) < 2:
        return "no variant could be measured"
    if limit.kind == "size":
        at = min(range(len(names)), key=lambda at: sizes[at])
        return f"no variant keeps {limit}: the smallest is {names[at]}, {sizes[at]:,} bytes"
    name = min(names[1:], key=lambda name: losses[name].loss)
    return (
        f"no smaller variant keeps {limit}: {name} comes nearest and loses {losses[name].loss:.2f} {unit} "
        f"of {measure}"
    )


def _words(
    names: Sequence[str],
    sizes: Sequence[int],
    at: int,
    losses: dict[str, Interval],
    limit: Limit,
    alike: Sequence[str],
    measure: str,
    unit: str,
    samples: int,
) -> tuple[str, ...]:
    name, loss = names[at], losses[names[at]]
    how = f"no sample of {samples:,} differs" if loss.exact else f"paired bootstrap over {samples:,} samples"
    change = f"loses {loss.loss:.2f}" if loss.loss >= 0 else f"gains {-loss.loss:.2f}"
    found = [
        f"chosen: {name}, {sizes[at]:,} bytes, {sizes[0] / sizes[at]:.2f} times smaller, {change} {unit} of "
        f"{measure} ({LEVEL} % interval of the loss {loss.low:.2f} to {loss.high:.2f}; {how})"
    ]
    if limit.kind == "loss" and loss.high > limit.value:
        sure = [
            one for one in range(1, len(names))
            if losses[names[one]].high <= limit.value and sizes[one] < sizes[0]
        ]  # fmt: skip
        best = min(sure, key=lambda one: sizes[one], default=None)
        found.append(
            f"{samples:,} samples cannot show that it keeps {limit}: its interval goes past that; "
            + (
                f"that of {names[best]}, {sizes[best]:,} bytes, does not"
                if best is not None
                else "so does that of every other"
            )
        )
    smaller = [other for other in alike if sizes[names.index(other)] < sizes[at]]
    if smaller:
        smaller.sort(key=lambda other: sizes[names.index(other)])
        listed = ", ".join(f"{other} ({sizes[names.index(other)]:,} bytes)" for other in smaller)
        found.append(f"smaller, and not distinguishable from it in {measure}: {listed}")
    rest = [other for other in alike if other not in smaller]
    rest.sort(key=lambda other: sizes[names.index(other)])
    if rest:
        more = f" and {len(rest) - _MOST_NAMES:,} more" if len(rest) > _MOST_NAMES else ""
        listed = ", ".join(rest[:_MOST_NAMES])
        found.append(f"larger, and not distinguishable from it in {measure}: {listed}{more}")
    if not _differ(loss) and at:
        found.append(f"the original is not distinguishable from it in {measure} either")
    return tuple(found)
