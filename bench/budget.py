"""Mixed precision: what a fitted recipe gains over the best single one at the same bytes, and what it costs.

    python -m bench.budget [NAME ...]

For each network, for each candidate used for every weight: the recipe that ``fit`` gives for the same bytes.
Both are written as packages and run on samples that the fit has not seen.
"""

import argparse
import itertools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

import milpasses as mp
from bench.models import CACHE, package
from bench.networks import smooth_noise
from bench.table import Table
from milpasses.budget import Sensitivity, fit, sensitivity
from milpasses.budget.allocation import Allocation
from milpasses.budget.candidates import DEFAULT, tuned_candidates
from milpasses.budget.loaded import FEWEST
from milpasses.budget.probe import Probe, noise_share
from milpasses.calibration import KnownStatistics
from milpasses.data.samples import Samples
from milpasses.interpreter import Interpreter
from milpasses.program.package import open_package
from milpasses.program.saved import SavedProgram
from milpasses.rewrite import Rewriter

NETWORKS = ("digits", "encoder_small", "mobilenet_v3_small", "lstm", "decoder_untied")
COSTED = (*NETWORKS, "encoder_deep", "resnet50")
CALIBRATED = ("encoder_small", "mobilenet_v3_small")
SEEN, UNSEEN = 16, 8  # samples


def model_of(name: str) -> Path:
    """The package of a network of ``bench.models``, or of the demo's."""
    if name != "digits":
        return package(name)
    from milpasses_tools import digits

    path = CACHE / "digits-iOS18.mlpackage"
    if not path.exists():
        digits.convert().save(str(path))
    return path


def inputs_of(path: Path, name: str) -> list[dict[str, Any]]:
    """Inputs for a network: digits, smooth noise for images, random tokens; first those that fit sees."""
    if name == "digits":
        from milpasses_tools import digits

        images = digits.load().images
        return [{"image": images[i : i + 1]} for i in range((SEEN + UNSEEN) * 8)]
    features = Interpreter(path).inputs
    rng = np.random.default_rng(0)
    pictures = smooth_noise(SEEN + UNSEEN, 224).numpy()
    found: list[dict[str, Any]] = []
    for index in range(SEEN + UNSEEN):
        one: dict[str, Any] = {}
        for feature in features.values():
            shape = feature.fixed_shape()
            if feature.image is not None:
                picture = pictures[index].transpose(1, 2, 0) * 58 + 116
                one[feature.name] = np.clip(picture, 0, 255).astype(np.uint8)
            elif len(shape) == 4:
                one[feature.name] = pictures[index : index + 1]
            elif np.issubdtype(feature.dtype, np.integer):
                one[feature.name] = rng.integers(0, 8000, shape).astype(feature.dtype)
            else:
                one[feature.name] = rng.standard_normal(shape).astype(feature.dtype)
        found.append(one)
    return found


def measured(reference: Probe, model: Any, samples: list[Any]) -> float:
    """Signal-to-noise ratio of a compressed model's outputs, in dB."""
    changed = Probe(Interpreter(model), samples).reference
    share = noise_share(reference.reference, changed)
    return -10 * math.log10(share) if share else math.inf


def against_uniform(name: str) -> Table:
    """One row for each candidate: the same bytes, one scheme for all against one for each."""
    note = "SNR of the outputs on unseen samples, dB; predicted: what the table says of the fitted recipe."
    table = Table(f"Budget: {name}", note)
    path = model_of(name)
    inputs = inputs_of(path, name)
    seen = len(inputs) * SEEN // (SEEN + UNSEEN)
    interpreter = Interpreter(path)
    unseen = list(Samples.of(inputs[seen:], interpreter))
    reference = Probe(interpreter, unseen)
    costs = sensitivity(path, inputs[:seen])
    rough = sensitivity(path, statistics=mp.statistics(path, inputs[:seen]))
    for scheme in DEFAULT:
        uniform = mp.compress(path, scheme)
        budget = fit(path, 1 << 40, sensitivity=costs).uniform[scheme][0]
        found = fit(path, budget, sensitivity=costs, data=inputs[:seen])
        layers = fit(path, budget, sensitivity=rough)
        fitted, simple = mp.compress(path, found.recipe), mp.compress(path, layers.recipe)
        snr = [measured(reference, model, unseen) for model in (uniform, fitted, simple)]
        table.add(
            candidate=scheme,
            asked=budget,
            used=found.used,
            uniform_file=weight_bytes(uniform),
            fitted_file=weight_bytes(fitted),
            predicted_uniform_dB=-10 * math.log10(found.uniform[scheme][1]),
            metric_no_worse=fit(path, budget, sensitivity=costs).output_error <= found.uniform[scheme][1],
            predicted_dB=-10 * math.log10(found.output_error),
            uniform_dB=snr[0],
            fitted_dB=snr[1],
            by_layers_dB=snr[2],
            gain_dB=snr[1] - snr[0],
            no_worse=snr[1] >= snr[0],
        )
    return table


def weight_bytes(model: Any) -> int:
    """Bytes of the weight files of a saved model."""
    return sum(file.stat().st_size for file in Path(model.package_path).rglob("*.bin"))


def cost(name: str) -> Table:
    """Fitting against encoding each candidate once; the gap to the best of all choices, on four weights."""
    table = Table(f"Cost of a budget: {name}", "Seconds. Ratio: fit / encoding every candidate once.")
    path = model_of(name)
    inputs = inputs_of(path, name)
    fit(path, "5 bits", data=inputs, candidates=["pal4"])  # loads and compiles
    start = time.perf_counter()
    program = SavedProgram(open_package(path))
    rewriters = [Rewriter(mp.Recipe.of(c), program.target) for c in DEFAULT]
    for site in program.sites():
        for rewriter in rewriters:
            rewriter.rewrite(site)
    encoding = time.perf_counter() - start
    start = time.perf_counter()
    found = fit(path, "5 bits", data=inputs)
    fitting = time.perf_counter() - start
    start = time.perf_counter()
    fit(path, "5 bits", statistics=mp.statistics(path, inputs[:FEWEST]))
    layers = time.perf_counter() - start
    table.add(
        network=name, weights=len(found.table), encoding=encoding, fitting=fitting, by_layers=layers,
        ratio=fitting / encoding, ratio_by_layers=layers / encoding, gap_percent=gap(found.table),
    )  # fmt: skip
    return table


def cost_calibrated(name: str) -> Table:
    """The same with error feedback in every candidate, by statistics that are there already."""
    table = Table(
        f"Cost of a calibrated budget: {name}", "Seconds. Ratio: fit / encoding every candidate once."
    )
    path = model_of(name)
    inputs = inputs_of(path, name)
    statistics = mp.statistics(path, inputs, full=True, held_out=4)
    mp.compress(path, "pal4-g16-gptq", statistics=statistics)  # loads and compiles
    start = time.perf_counter()
    program = SavedProgram(open_package(path))
    candidates = tuned_candidates(program.target)
    calibration = KnownStatistics(statistics)
    rewriters = [Rewriter(mp.Recipe.of(c), program.target, calibration=calibration) for c in candidates]
    for site in program.sites():
        for rewriter in rewriters:
            rewriter.rewrite(site)
    encoding = time.perf_counter() - start
    start = time.perf_counter()
    found = fit(path, "4 bits", data=inputs, statistics=statistics, candidates=candidates)
    fitting = time.perf_counter() - start
    table.add(
        network=name, weights=len(found.table), encoding=encoding, fitting=fitting, ratio=fitting / encoding
    )
    return table


def gap(table: Sensitivity) -> float:
    """Worst excess of output error over exhaustive search, in percent, on the first weights at 20 budgets."""
    some = list(table)[:4]
    prices = [np.array([float(o.nbytes) for o in one.options]) for one in some]
    costs = [np.array([o.output_error for o in one.options]) for one in some]
    problem = Allocation(prices, costs)
    every = list(itertools.product(*(range(len(one)) for one in prices)))
    totals = np.array([[sum(p[i] for p, i in zip(prices, c, strict=True)),
                        sum(d[i] for d, i in zip(costs, c, strict=True))] for c in every])  # fmt: skip
    worst = 0.0
    for limit in np.linspace(problem.least, totals[:, 0].max(), 22)[1:-1]:
        best = totals[totals[:, 0] <= limit, 1].min()
        choice = problem.solve(limit)
        assert choice is not None
        worst = max(worst, problem.cost(choice) / best - 1 if best else 0.0)
    return 100 * worst


def main() -> None:
    """Measure the networks that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.budget", description=__doc__)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    for name in parser.parse_args().names:
        print(name, flush=True)
        cost(name)
        against_uniform(name)


if __name__ == "__main__":
    main()
