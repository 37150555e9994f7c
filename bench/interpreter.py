"""The interpreter against torch itself, on one sample at a time, with the same number of threads."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import milpasses as mp
from bench import networks
from bench.costs import child
from bench.models import CONTEXT, package
from bench.table import Table
from milpasses.interpreter import Interpreter

WANTED = {"torch": 2.0, "numpy": 5.0}
ROUNDS = 7


def _resnet50() -> tuple[nn.Module, str, Any]:
    return networks.resnet50(), "image", networks.smooth_noise(1, 224)


def _bert() -> tuple[nn.Module, str, Any]:
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, 30522, (1, CONTEXT), np.int32))
    return networks.transformer_encoder(), "ids", ids


MODELS = {"resnet50": _resnet50, "encoder_base": _bert}


def alternating(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Least seconds of each call, taken in turns so that a busy moment meets them all."""
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS + 1):  # the first round warms up
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def speed() -> Table:
    """Interpreter over torch: ResNet50 and BERT-base (CONTEXT tokens), batch 1."""
    table = Table(
        "Interpreter",
        "Seconds of one prediction, least of several in turns; wanted: with torch at most 2 times torch's "
        "own time, with NumPy alone at most 5 times; with second moments at most twice the time without.",
    )
    for name, make in MODELS.items():
        network, feature, sample = make()
        inputs = {feature: sample.numpy()}
        path = package(name)
        with torch.inference_mode():
            calls: dict[str, Callable[[], Any]] = {"torch itself": lambda n=network, x=sample: n(x)}
            for backend in ("torch", "numpy"):
                for precision in ("declared", "float32"):
                    one = Interpreter(str(path), precision=precision, backend=backend)
                    calls[f"{backend}, {precision}"] = lambda i=one, x=inputs: i.run(x)
            seconds = alternating(calls)
        for call, took in seconds.items():
            wanted = WANTED.get(call.split(",")[0])
            table.add(
                model=name, runs=call, seconds=took, ratio=took / seconds["torch itself"], wanted=wanted or ""
            )
        _observers(table, name, path, inputs)
    return table


def _observers(table: Table, name: str, path: Path, inputs: dict[str, Any]) -> None:
    """Second moments of every weight's input over several samples, against the runs alone."""
    interpreter = Interpreter(str(path))
    samples = [inputs] * 4
    calls: dict[str, Callable[[], Any]] = {
        "4 runs": lambda: [interpreter.run(one) for one in samples],
        "4 runs with second moments": lambda: mp.statistics(interpreter, samples),
    }
    seconds = alternating(calls)
    for call, took in seconds.items():
        table.add(
            model=name,
            runs=call,
            seconds=took,
            ratio=took / seconds["4 runs"],
            wanted=2.0 if "moments" in call else "",
        )


RUN = """
import json, numpy as np
from milpasses.interpreter import Interpreter
one = Interpreter({path!r}, backend="numpy", keep_weights={keep})
if {run}:
    one.run({{k: np.zeros(f.fixed_shape(), f.dtype) for k, f in one.inputs.items()}})
facts = {{}}
"""


def memory() -> Table:
    """Peak memory of one prediction over that of loading the model, by weights kept decoded or not."""
    table = Table(
        "Interpreter's memory",
        "Resident peak of a process that runs once, less that of one that only loads the model; the weights "
        "in float32 and the live activations are what should be there.",
    )
    for name in MODELS:
        path = str(package(name))
        weights = next(Path(path).rglob("weight.bin")).stat().st_size
        idle = child(RUN.format(path=path, keep=True, run=False))["peak"]
        for keep in (True, False):
            peak = child(RUN.format(path=path, keep=keep, run=True))["peak"]
            table.add(
                model=name,
                weights="kept as float32" if keep else "decoded at each use",
                weights_MB=weights / 1e6,
                loaded_MB=idle / 1e6,
                run_adds_MB=(peak - idle) / 1e6,
                over_float32_weights=(peak - idle) / (2 * weights),
            )
    return table
