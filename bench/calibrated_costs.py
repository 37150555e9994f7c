"""What calibration costs: one large layer, and a whole network with its statistics.

python -m bench.calibrated_costs
"""

import math
import time

import numpy as np

import milpasses as mp
from bench.budget import inputs_of
from bench.models import package
from bench.networks import heavy_tailed
from bench.quality_calibrated import correlated, moments_of
from bench.table import Table
from milpasses.calibration import Inputs
from milpasses.calibration.encode import encode_calibrated
from milpasses.calibration.feedback import feed_back
from milpasses.calibration.matrices import layout_of
from milpasses.encoding.encoder import Encoder
from milpasses.program.weights import Consumer, Weight
from milpasses.recipe.schemes import Scheme

WIDTH = 4096
LAYER = ("int4-gptq", "int4-b32-gptq", "pal4-gptq", "pal4-g16-gptq", "sparse50-obs")
IMAGES = 16


def layer() -> Table:
    """One linear of 4096 x 4096, its second moments given: all candidates made and validated."""
    note = "Seconds; feedback: GPTQ, descent and refit; calibrated: all candidates made and validated."
    table = Table(f"Calibrating {WIDTH} x {WIDTH}", f"{note} Wanted of feedback: at most 20.")
    rng = np.random.default_rng(0)
    mixing = 0.02 * rng.normal(size=(WIDTH, WIDTH)) + np.eye(WIDTH)
    fit, check = (moments_of(correlated(rng, 2 * WIDTH, WIDTH, mixing)) for _ in range(2))
    assert fit.gram is not None
    value = heavy_tailed(rng, (WIDTH, WIDTH), 1 / math.sqrt(WIDTH)).astype(np.float16)
    weight = Weight("weight", value.shape, "float16", (Consumer("linear", "layer", "weight"),))
    small = Weight("small", (64, WIDTH), "float16", weight.consumers)
    for recipe in LAYER:
        encode_calibrated(Encoder(small), value[:64], Scheme.parse(recipe), Inputs(fit, check))  # compiles
        plain = Encoder(weight).encode(value, Scheme.parse(recipe))
        start = time.perf_counter()
        feed_back(plain, value, layout_of(weight, fit), fit.gram, 0.01)
        feedback = time.perf_counter() - start
        start, cpu = time.perf_counter(), time.process_time()
        encode_calibrated(Encoder(weight), value, Scheme.parse(recipe), Inputs(fit, check))
        table.add(
            recipe=recipe,
            feedback=feedback,
            calibrated=time.perf_counter() - start,
            calibrated_cpu=time.process_time() - cpu,
        )
    return table


def network() -> Table:
    """ResNet50 with statistics of images: the run, and the compression."""
    table = Table("Calibrating ResNet50", f"{IMAGES} images; wanted: at most 180 s in all.")
    path = package("resnet50")
    images = inputs_of(path, "resnet50")[:IMAGES]
    for recipe in ("pal4-g16-gptq", "int4-b32-gptq"):
        start, cpu = time.perf_counter(), time.process_time()
        statistics = mp.statistics(path, images, full=True, held_out=4)
        taken = time.perf_counter() - start
        mp.compress(path, recipe, statistics=statistics)
        table.add(
            recipe=recipe,
            statistics=taken,
            seconds=time.perf_counter() - start,
            cpu_seconds=time.process_time() - cpu,
        )
    return table


if __name__ == "__main__":
    layer()
    network()
