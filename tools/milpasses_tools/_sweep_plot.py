"""The picture of a sweep: size against what was measured, with the front. Needs matplotlib."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg  # pyright: ignore[reportMissingImports]
from matplotlib.figure import Figure  # pyright: ignore[reportMissingImports]

from milpasses_tools._sweep_choice import SHARES
from milpasses_tools._sweep_report import measured
from milpasses_tools._sweep_store import void, write_whole

if TYPE_CHECKING:
    from milpasses_tools.sweep import Sweep

COLORS = ("#2f7fc1", "#d9730d", "#3f9a63", "#8e5bb5", "#b0892b", "#c04f6e")
_MOST_NAMES = 14


def draw(found: "Sweep", path: Path) -> None:
    """Write the picture, a PNG of 1500 x 900 pixels."""
    choice = found.choice
    assert choice is not None
    figure: Any = Figure(figsize=(10, 6), dpi=150, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    rows = [row for row in found.rows if row["name"] in choice.losses]
    scale, unit = _unit(max(row["bytes"] for row in rows))
    means = {row["name"]: measured(row, choice.measure) for row in rows}
    for color, (family, members) in zip(_cycled(), families(rows).items(), strict=False):
        losses = [choice.losses[row["name"]] for row in members]
        below = [max(0.0, one.high - one.loss) for one in losses]
        above = [max(0.0, one.loss - one.low) for one in losses]
        axes.errorbar(
            [row["bytes"] / scale for row in members],
            [means[row["name"]] for row in members],
            yerr=None if family == "original" else [below, above],
            fmt="s" if family == "original" else "o",
            color="black" if family == "original" else color,
            label=family, elinewidth=0.8, capsize=2, markersize=5, alpha=0.9,
        )  # fmt: skip
    front = [row for row in rows if row["name"] in choice.front]
    front.sort(key=lambda row: row["bytes"])
    sizes, best = [row["bytes"] / scale for row in front], [means[row["name"]] for row in front]
    axes.step(sizes, best, where="post", color="gray", linewidth=1, zorder=0, label="Pareto front")
    for row in front[-_MOST_NAMES:]:
        at = (row["bytes"] / scale, means[row["name"]])
        axes.annotate(row["name"], at, xytext=(4, 5), textcoords="offset points", fontsize=8)
    for row in rows:
        if row["name"] == choice.chosen:
            at = (row["bytes"] / scale, means[row["name"]])
            axes.plot(
                *at, marker="o", markersize=14, fillstyle="none", color="#c62828", label="chosen", ls=""
            )
    percent = choice.measure in SHARES
    axes.set_xlabel(f"size of the model, {unit}")
    axes.set_ylabel(f"{choice.measure}, %" if percent else choice.measure)
    axes.set_title(
        f"{Path(found.about['model']).name}: {choice.measure} on {choice.samples:,} samples\n"
        "bars: 95 % interval of the difference to the original (paired bootstrap)",
        fontsize=11,
    )
    axes.grid(alpha=0.25)
    axes.set_xlim(left=0)
    axes.legend(fontsize=9, loc="lower right")
    write_whole(path, lambda file: void(canvas.print_png(file)))


def _cycled() -> Any:
    from itertools import cycle

    return cycle(COLORS)


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
