"""A sweep as people read it in a terminal."""

from typing import TYPE_CHECKING, Any

from milpasses_tools._table import print_table
from milpasses_tools._words import in_options

if TYPE_CHECKING:
    from milpasses_tools._sweep.result import Sweep


def print_sweep(found: "Sweep") -> None:
    """Print the table, the choice, what went wrong, and where everything is."""
    measure = found.choice.measure if found.choice else "accuracy"
    unit = "points" if measure in ("accuracy", "agreement") else measure
    metrics = list(dict.fromkeys(name for row in found.rows for name in row.get("metrics", {})))
    lossy = any(row.get("loss") for row in found.rows)
    print_table(
        [
            "", "variant", ">bytes", ">times smaller", ">bits", ">weights dB", ">outputs dB", ">same class",
            *[">accuracy"] * lossy, *(f">{name}" for name in metrics),
            *[f">loss, {unit}", ">95 % interval"] * lossy, ">seconds",
        ],
        [_row(row, found.rows[0], metrics, lossy) for row in found.rows],
    )  # fmt: skip
    print("* chosen, + on the front of size and " + measure)
    print()
    if found.choice is not None:
        for sentence in found.choice.words:
            print(in_options(sentence))
    for note in found.notes:
        print(f"note: {in_options(note)}")
    about = found.about
    aside = f", {about['calibration']:,} more set aside to tune on" if about["calibration"] else ""
    print(f"on {about['samples']:,} samples of {about['data']}{aside}; computed {about['computed']}")
    if found.saved is not None:
        print(f"saved: {found.saved}")
    print(f"results: {found.folder / 'report.html'}, results.csv, results.jsonl")


def _row(
    row: dict[str, Any], original: dict[str, Any], metrics: list[str], lossy: bool
) -> tuple[object, ...]:
    mark = "*" if row.get("chosen") else "+" if row.get("front") else ""
    if row["status"] != "done":
        return (
            mark,
            row["name"],
            f"failed: {in_options(row['error'])}",
            *[None] * (6 + 3 * lossy + len(metrics)),
        )
    loss = row.get("loss")
    accuracy = row["accuracy"]
    return (
        mark,
        row["name"],
        row["bytes"],
        original["bytes"] / row["bytes"],
        row["bits_per_weight"],
        decibels(row["weight_sqnr_db"]),
        decibels(row["output_snr_db"]),
        _share(row["agreement"]),
        *[None if accuracy is None else _share(accuracy["top1"])] * lossy,
        *(None if row["metrics"].get(name) is None else f"{row['metrics'][name]:.4g}" for name in metrics),
        *[None if loss is None else loss["loss"]] * lossy,
        *[None if loss is None else f"{loss['low']:.2f} to {loss['high']:.2f}"] * lossy,
        row["seconds_compress"],
    )


def decibels(value: float | str | None) -> str | None:
    """One decimal; ``exact`` where nothing was lost."""
    if value is None:
        return None
    return "exact" if value in ("inf", float("inf")) else f"{float(value):.1f}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.2%}"
