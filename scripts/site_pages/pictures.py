"""The pictures of "How it works", each drawn from what the project's own code computes on the digits network."""

from functools import cache
from typing import Any

import numpy as np
from milpasses_kernels.kmeans import kmeans
from milpasses_kernels.rounding import quantize
from milpasses_tools import digits

import milpasses as mp
from milpasses.budget import fit, sensitivity
from milpasses.interpreter import Interpreter

from .svg import COLORS, FAINT, Chart

WEIGHT = "residual.weight"
FITTED_IMAGES, SEEN_IMAGES = 128, 160  # of the 360: to learn from, and to measure on


@cache
def model() -> Any:
    """The digits network, converted."""
    return digits.convert()


@cache
def samples() -> list[dict[str, np.ndarray]]:
    """All images, as inputs."""
    return [{digits.INPUT: image[None]} for image in digits.load().images]


def decibels(signal: np.ndarray, noise: np.ndarray) -> float:
    """Signal-to-noise ratio in dB."""
    return float(10 * np.log10((signal**2).sum() / (noise**2).sum()))


@cache
def outputs(of: Any = None) -> np.ndarray:
    """Scores of the images that nothing learned from, (SEEN_IMAGES, 10)."""
    interpreter = Interpreter(model() if of is None else of)
    rows = [interpreter.run(sample)[digits.OUTPUT] for sample in samples()[-SEEN_IMAGES:]]
    return np.concatenate(rows).astype(np.float64)


def output_snr(small: Any) -> float:
    """What the compressed network's scores lose, in dB."""
    return decibels(outputs(), outputs() - outputs(small))


def tables() -> dict[str, tuple[np.ndarray, float]]:
    """16 values for one weight and the SQNR they give: evenly spaced, and by exact k-means."""
    weight = digits.arrays()[WEIGHT].astype(np.float16).reshape(1, -1)
    even = quantize(weight, 4, True, False)
    grid = np.arange(-8.0, 8.0)
    offset = 0.0 if even.zero_point is None else float(even.zero_point[0])
    even_values = float(even.scale[0]) * (grid - offset)
    even_decoded = float(even.scale[0]) * (even.codes.astype(np.float64) - offset)
    best = kmeans(weight, 16)
    wide = weight.astype(np.float64)
    return {
        "16 evenly spaced values, scale searched": (even_values, decibels(wide, wide - even_decoded)),
        "16 values by exact k-means": (
            best.lut[0].astype(np.float64),
            decibels(wide, wide - best.lut[0].astype(np.float64)[best.codes]),
        ),
    }


def kmeans_picture() -> str:
    """A weight's histogram, and where the values of two tables stand."""
    weight = digits.arrays()[WEIGHT].astype(np.float64).ravel()
    edge = float(np.ceil(np.abs(weight).max() * 20) / 20)
    counts, edges = np.histogram(weight, 80, (-edge, edge))
    top = float(counts.max())
    chart = Chart(
        f"Where 16 values serve {weight.size:,} weights best (digits network, residual convolution)",
        (-edge, edge),
        (-0.3 * top, 1.05 * top),
        ("value of a weight", "weights"),
    )
    for count, left, right in zip(counts, edges[:-1], edges[1:], strict=True):
        chart.bar(float(left), float(right), float(count), FAINT)
    legend: list[tuple[str, str]] = []
    for row, (name, (values, snr)) in enumerate(tables().items()):
        for value in values:
            chart.dot((float(value), -top * (0.1 + 0.12 * row)), COLORS[row], f"{value:.4f}")
        legend.append((COLORS[row], f"{name}: {snr:.1f} dB"))
    chart.legend(legend)
    step = edge / 2
    ticks = [(i * step, f"{i * step:.2f}") for i in range(-2, 3)]
    return chart.render(ticks, [(0.0, "0"), (float(round(top, -2)), f"{round(top, -2):.0f}")])


@cache
def feedback() -> dict[str, dict[int, float]]:
    """Output SNR at 1 to 4 bits: tables alone, weighted by data, with error feedback."""
    found = mp.statistics(model(), samples()[:FITTED_IMAGES], full=True, held_out=32)
    kinds = {"k-means of the weights": "", "weighted by data": "data", "error feedback (gptq)": "gptq"}
    figures: dict[str, dict[int, float]] = {}
    for label, kind in kinds.items():
        figures[label] = {}
        for bits in (1, 2, 3, 4):
            name = f"pal{bits}-gptq" if kind == "gptq" else f"pal{bits}"
            small = mp.compress(model(), name, statistics=found if kind else None)
            figures[label][bits] = output_snr(small)
    return figures


def feedback_picture() -> str:
    """Bars: output SNR on images that nothing learned from."""
    figures = feedback()
    top = max(snr for row in figures.values() for snr in row.values())
    chart = Chart(
        f"The same bytes, fitted to data: error of the scores on {SEEN_IMAGES} unseen images",
        (0.5, 4.5),
        (min(0.0, *(snr for row in figures.values() for snr in row.values())), 1.1 * top),
        ("bits a weight, one table a weight", "output SNR, dB (more is better)"),
    )
    for place, (_, row) in enumerate(figures.items()):
        for bits, snr in row.items():
            left = bits - 0.36 + 0.24 * place
            chart.bar(left, left + 0.22, max(snr, 0.05), COLORS[place])
            chart.words((left + 0.11, max(snr, 0) + 0.01 * top), f"{snr:.1f}", "middle")
    chart.legend([(COLORS[place], name) for place, name in enumerate(figures)])
    return chart.render(
        [(bits, str(bits)) for bits in (1, 2, 3, 4)],
        [(value, str(value)) for value in range(0, int(top) + 1, 5)],
    )


CANDIDATES = ("pal1", "pal2", "pal2-g16", "pal3", "pal3-g16", "pal4", "pal4-g16", "int4-b32", "pal6", "int8")
BUDGETS = (2, 2.5, 3, 3.5, 4, 5, 6, 7, 8)


@cache
def budgets() -> tuple[dict[str, tuple[int, float]], list[tuple[int, float, str]]]:
    """Each candidate for all weights, and what fits each of ``BUDGETS``: bytes, predicted output SNR in dB."""
    table = sensitivity(model(), samples()[:FITTED_IMAGES], candidates=CANDIDATES)
    fitted: list[tuple[int, float, str]] = []
    uniform: dict[str, tuple[int, float]] = {}
    for bits in BUDGETS:
        found = fit(model(), f"{bits} bits", sensitivity=table)
        fitted.append((found.used, found.snr_db, f"{bits} bits: {found.used:,} bytes, {found.snr_db:.1f} dB"))
        uniform = found.uniform
    return {name: (used, -10 * float(np.log10(error))) for name, (used, error) in uniform.items()}, fitted


def budget_picture() -> str:
    """Bytes against output SNR: single schemes, and choices for each weight."""
    uniform, fitted = budgets()
    most = max([used for used, _ in uniform.values()] + [used for used, *_ in fitted])
    top = max([snr for _, snr in uniform.values()] + [snr for _, snr, _ in fitted])
    low = min([0.0] + [snr for _, snr in uniform.values()])
    chart = Chart(
        "One scheme for all weights, and a scheme for each weight under a budget",
        (0, 1.05 * most / 1000),
        (low, 1.05 * top),
        ("weight file, kB", "predicted output SNR, dB"),
    )
    labels: list[tuple[float, float]] = []
    for name, (used, snr) in sorted(uniform.items(), key=lambda item: item[1]):
        chart.dot((used / 1000, snr), COLORS[1], f"{name}: {used:,} bytes, {snr:.1f} dB", hollow=True)
        x, y = used / 1000 + 0.8, snr - 0.03 * top
        while any(abs(x - other) < 8 and abs(y - height) < 0.05 * top for other, height in labels):
            y -= 0.055 * top  # under the word that stands there
        labels.append((x, y))
        chart.words((x, y), name, color=COLORS[1])
    chart.line([(used / 1000, snr) for used, snr, _ in fitted], COLORS[0])
    for used, snr, hint in fitted:
        chart.dot((used / 1000, snr), COLORS[0], hint)
    chart.legend([(COLORS[1], "one scheme for all"), (COLORS[0], "fitted to a budget")])
    return chart.render(
        [(value, str(value)) for value in range(0, int(most / 1000) + 10, 10)],
        [(value, str(value)) for value in range(0, int(top) + 10, 10) if value <= 1.05 * top],
    )


PICTURES = {
    "kmeans.svg": kmeans_picture,
    "error-feedback.svg": feedback_picture,
    "budget.svg": budget_picture,
}
