"""The picture of a sweep: size against what was measured, with the front. Needs matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyright: ignore[reportMissingImports]
from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

from milpasses.program.files import whole_file
from milpasses_tools._sweep.choice import SHARES, Interval
from milpasses_tools._sweep.result import measured
from milpasses_tools._sweep.unknown import OUTPUT_SNR

if TYPE_CHECKING:
    from milpasses_tools._sweep.result import Sweep

COLORS = (
    "#2f7fc1", "#d9730d", "#3f9a63", "#8e5bb5", "#b0892b", "#c04f6e",
    "#1f9e9e", "#7a7a3a", "#8c564b", "#e377c2", "#4a5fd0", "#7f7f7f",
)  # fmt: skip
_PLACES = ((-6, 6, "right"), (7, 6, "left"), (7, -14, "left"), (-6, -14, "right"))


def draw(found: "Sweep", path: Path) -> None:
    """Write the picture, a PNG of 1500 x 900 pixels."""
    choice = found.choice
    assert choice is not None
    figure: Any = Figure(figsize=(10, 6), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    measurable = {row["name"]: measured(row, choice.measure) for row in found.rows}
    means = {name: mean for name, mean in measurable.items() if mean is not None}
    rows = [row for row in found.rows if row["name"] in means]
    if not rows:
        return
    scale, unit = _unit(max(row["bytes"] for row in rows))
    percent = choice.measure in SHARES
    unitary = percent or choice.measure == OUTPUT_SNR
    for index, (family, members) in enumerate(families(rows).items(), -1):
        losses = [choice.losses.get(row["name"], Interval(0.0, 0.0, 0.0)) for row in members]
        below = [max(0.0, one.high - one.loss) for one in losses]
        above = [max(0.0, one.loss - one.low) for one in losses]
        axes.errorbar(
            [row["bytes"] / scale for row in members],
            [means[row["name"]] for row in members],
            yerr=[below, above] if choice.losses and family != "original" else None,
            fmt="s" if family == "original" else "o",
            color="black" if family == "original" else COLORS[index % len(COLORS)],
            label=family, elinewidth=0.8, capsize=2, markersize=5, alpha=0.9,
        )  # fmt: skip
    front = [row for row in rows if row["name"] in choice.front]
    front.sort(key=lambda row: row["bytes"])
    sizes, best = [row["bytes"] / scale for row in front], [means[row["name"]] for row in front]
    axes.step(sizes, best, where="post", color="gray", linewidth=1, zorder=0, label="Pareto front")
    chosen = [row for row in rows if row["name"] == choice.chosen]
    for row in chosen:
        at = (row["bytes"] / scale, means[row["name"]])
        axes.plot(*at, marker="o", markersize=14, fillstyle="none", color="#c62828", label="chosen", ls="")
    axes.set_xlabel(f"size of the model, {unit}")
    axes.set_ylabel(f"{choice.measure}, {'%' if percent else 'dB'}" if unitary else choice.measure)
    axes.set_title(
        f"{Path(found.about['model']).name}: {choice.measure} on {choice.samples:,} samples\n"
        + ("bars: 95 % interval of the difference to the original" if choice.losses else ""),
        fontsize=11,
    )
    axes.grid(alpha=0.25)
    axes.set_xlim(left=0)
    if percent:
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, 0), min(high, 100))
    axes.legend(fontsize=9, loc="lower right")
    named = {row["name"]: row for row in (*chosen, rows[0], *reversed(front))}
    _name({name: (row["bytes"] / scale, means[name]) for name, row in named.items()}, axes, canvas)
    with whole_file(path, force=True) as file:
        canvas.print_png(file)


def _name(points: dict[str, tuple[float, float | None]], axes: Any, canvas: Any) -> None:
    """Write each name beside its point where there is room, the first ones first, or nowhere."""
    canvas.draw()
    inside = axes.get_window_extent()
    taken = [axes.get_legend().get_window_extent()]
    for name, at in points.items():
        for dx, dy, side in _PLACES:
            text = axes.annotate(
                name, at, xytext=(dx, dy), textcoords="offset points", ha=side, fontsize=9, zorder=1.5,
                bbox={"facecolor": "white", "alpha": 0.7, "pad": 0.5, "linewidth": 0},
            )  # fmt: skip
            box = text.get_window_extent(canvas.get_renderer())
            free = inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0
            if free and not any(box.padded(8).overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def families(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Variants of one kind: what their names begin with, without the numbers."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        family = row["name"].rstrip("0123456789").rstrip("_-") if row["name"] != "original" else "original"
        letters = "".join(sign for sign in family.split("-")[0].split("(")[0] if not sign.isdigit())
        found.setdefault(letters or row["name"], []).append(row)
    return found


def _unit(largest: float) -> tuple[float, str]:
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if largest >= scale:
            return scale, unit
    return 1.0, "bytes"
