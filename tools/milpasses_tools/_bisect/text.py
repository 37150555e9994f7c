"""What ``milpasses bisect`` found, printed."""

import math
from typing import TYPE_CHECKING

from milpasses_tools._output import sqnr_text
from milpasses_tools._table import print_table

if TYPE_CHECKING:
    from milpasses_tools._bisect.found import Bisection, PassBisection
    from milpasses_tools._bisect.measure import WorstError
    from milpasses_tools._compare.comparison import NonFinite


def _decibels(snr_db: float | None) -> str | None:
    return "not finite" if snr_db == -math.inf else sqnr_text(snr_db)


def _text(error: "WorstError") -> str:
    if math.isinf(error.snr_db):
        return "exact" if error.snr_db > 0 else f"not finite in {error.output}"
    return f"{error.snr_db:.1f} dB in {error.output}"


def _nonfinite(first: "NonFinite") -> str:
    return f"first {first.value}: in {first.output} of {first.op_type} {first.op}"


def print_weights(found: "Bisection") -> None:
    """Table, verdict, recipe; last the first op that makes what is not finite."""
    _print_search(found)
    if found.nonfinite is not None:
        comment = "" if found.kept is None else "# "  # behind a recipe, which may be copied as it stands
        print(f"{comment}{_nonfinite(found.nonfinite)}, which the original keeps finite")


def _print_search(found: "Bisection") -> None:
    if found.weights:
        rows = [
            [
                one.name,
                one.form,
                one.nbytes,
                one.nbytes_original,
                _decibels(one.error.snr_db),
                f"{one.error.max_error:.4g}",
                "keep" if one.keep else "",
            ]
            for one in found.weights
        ]
        print_table(["weight alone", "form", ">bytes", ">original", ">SNR dB", ">max error", ""], rows)
        print()
    print(f"compressed: {_text(found.whole)}; tolerance {found.tolerance}")
    _print_footer(found, f"{found.differ:,} weights differ")
    if found.kept is None:
        print("within the tolerance" if found.within else "no weight is at fault")
        return
    print(f"first outside the tolerance, in program order: {found.first}")
    print(
        f"keep {len(found.keep):,} of {found.differ:,} weights uncompressed, {found.added_bytes:+,} bytes: "
        f"{_text(found.kept)}"
    )
    print()
    if found.recipe:
        print("# the recipe that keeps them")
        print(found.recipe, end="")
    else:
        print("# rules that keep them, before those of the recipe")
        for rule in found.rules:
            print(rule)


def print_passes(found: "PassBisection") -> None:
    """Table of the programs that ran, and verdict."""
    rows = [
        [
            one.index,
            one.name,
            None if one.error is None else _decibels(one.error.snr_db),
            None if one.error is None else f"{one.error.max_error:.4g}",
            _decibels(one.added_db),
            one.problem or ("" if one.nonfinite is None else f"{one.nonfinite.value} by {one.nonfinite.op}"),
        ]
        for one in found.passes
    ]
    print_table([">", "after pass", ">SNR dB", ">max error", ">added dB", ""], rows)
    print()
    _print_footer(found, f"{found.programs:,} programs")
    if found.first is None:
        print(f"within the tolerance of {found.tolerance} after every pass that was tried")
    else:
        print(f"first outside the tolerance of {found.tolerance}: {found.first.name}")
        if found.between:
            print(f"or one of {', '.join(found.between)}, whose programs could not be run")
    if found.worst is not None:
        print(f"most error: {found.worst.name}, {_decibels(found.worst.added_db)} dB to the program before")
    if found.nonfinite is not None:
        print(f"{_nonfinite(found.nonfinite)}, after {found.nonfinite_pass}")


def _print_footer(found: "Bisection | PassBisection", what: str) -> None:
    samples = f"{found.samples:,} samples of {found.data}"
    print(f"{what}; {found.executions:,} executions of the model over {samples}")
    if found.random:
        print("note: the data is random: figures of real data differ")
    print(f"note: {found.note}")
    for note in getattr(found, "notes", ()):
        print(f"note: {note}")
