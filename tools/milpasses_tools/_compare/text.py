"""A comparison as people read it."""

from milpasses_tools._compare.comparison import Comparison
from milpasses_tools._table import print_table


def print_comparison(found: Comparison, top: int) -> None:
    """Print outputs, accuracy, the ``top`` worst ops, what is not finite, and what the figures are worth."""
    print_table(
        [
            "output", ">SNR dB", ">PSNR dB", ">max error", ">mean error", ">cosine", ">top-1 same",
            f">in top {found.k}",
        ],
        [
            (
                output.name,
                _decibels(output.snr_db),
                _decibels(output.psnr_db),
                _short(output.max_error),
                _short(output.mean_error),
                None if output.cosine is None else f"{output.cosine:.6f}",
                _share(output.agreement),
                _share(output.top_k_agreement),
            )
            for output in found.outputs
        ],
    )  # fmt: skip
    print()
    if found.boxes:
        _print_boxes(found)
    if found.accuracy_a is not None and found.accuracy_b is not None:
        _print_accuracy(found, top)
    if found.ops:
        _print_ops(found, top)
    for one in found.nonfinite:
        print(one)
    print(f"a: {found.a}")
    print(f"b: {found.b}")
    warning = " (random: says little about real data)" if found.random else ""
    print(f"on {found.samples:,} {'sample' if found.samples == 1 else 'samples'} of {found.data}{warning}")
    print(f"computed {found.note}")


def _print_accuracy(found: Comparison, top: int) -> None:
    a, b = found.accuracy_a, found.accuracy_b
    assert a is not None
    assert b is not None
    pairs = sorted(zip(a.classes, b.classes, strict=True), key=lambda pair: pair[1].top1 - pair[0].top1)
    rows = [("all", a, b), *((str(x.label), x, y) for x, y in pairs[:top])]
    print_table(
        ["class", ">samples", ">a right", ">b right", f">a in top {a.k}", f">b in top {a.k}"],
        [
            (name, x.count, _share(x.top1), _share(y.top1), _share(x.top_k), _share(y.top_k))
            for name, x, y in rows
        ],
    )
    if len(pairs) > top:
        print(f"and {len(pairs) - top:,} more classes, which lose less")
    print()


def _print_boxes(found: Comparison) -> None:
    print_table(
        [
            "boxes of", ">in a", ">in b", ">matched", ">worst error", ">mean error", ">worst IoU",
            ">mean IoU", ">worst confidence error", "unit",
        ],
        [
            (
                one.name, one.boxes_a, one.boxes_b, one.matched, _short(one.worst_error),
                _short(one.mean_error), _short(one.worst_iou), _short(one.mean_iou),
                _short(one.worst_confidence_error), one.unit,
            )
            for one in found.boxes
        ],
    )  # fmt: skip
    print()


def _print_ops(found: Comparison, top: int) -> None:
    listed = found.worst_ops()[:top]
    print_table(
        ["op", "type", ">own SNR dB", ">SNR of inputs", ">SNR of output", ">max error", "matched by"],
        [
            (
                op.op if op.op == op.other_op else f"{op.op} / {op.other_op}",
                op.op_type,
                _decibels(op.own_snr_db),
                _decibels(op.input_snr_db),
                _decibels(op.snr_db),
                _short(op.max_error),
                op.matched,
            )
            for op in listed
        ],
    )
    if len(found.ops) > len(listed):
        print(f"and {len(found.ops) - len(listed):,} more results of ops, which add less")
    for model, names in (("a", found.unmatched_a), ("b", found.unmatched_b)):
        if names:
            shown = ", ".join(names[:top]) + (", ..." if len(names) > top else "")
            print(f"{len(names):,} ops of {model} alone: {shown}")
    print("own SNR: the op of b, with its own weights, on what the op of a was given")
    print()


def _decibels(value: float | None) -> str | None:
    if value is None:
        return None
    return "exact" if value == float("inf") else f"{value:.1f}"


def _share(value: float | None) -> str | None:
    return None if value is None else f"{value:.2%}"


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.3g}"
