"""What tuning adds to calibration, and beside it what coremltools.optimize.torch trains in the same time.

    python -m bench.tuning [networks] [tasks]

Every figure is measured on inputs that nothing saw: not calibration, not tuning, not what tuning holds out.
"""

import copy
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import coremltools as ct
import numpy as np
import torch
from torch import Tensor, nn

import milpasses as mp
from bench.models import convert, traced
from bench.quality_calibrated import convnet, images, mlp, vectors
from bench.table import Table
from milpasses.interpreter import Interpreter
from milpasses.report import decibels

STEPS = 200
RECIPES = ("pal2-g16", "pal3-g16")
NOTE = "Outputs' SQNR in dB on inputs that nothing saw; seconds are processor time."


def their_config(recipe: str) -> dict[str, Any]:
    """The fields of coremltools' configurations for one of ``RECIPES``."""
    return {"n_bits": int(recipe[3]), "granularity": "per_grouped_channel", "group_size": 16}


def dkm(network: nn.Module, data: Sequence[Tensor], fields: dict[str, Any], seconds: float) -> nn.Module:
    """coremltools' DKM, trained for ``seconds`` of processor time to give the float network's outputs."""
    from coremltools.optimize.torch.palettization import DKMPalettizer, DKMPalettizerConfig

    with torch.no_grad():
        targets = [network(x) for x in data]
    config = DKMPalettizerConfig.from_dict({"global_config": {**fields, "milestone": 0}})
    palettizer = DKMPalettizer(copy.deepcopy(network), config)
    student: Any = palettizer.prepare()
    student.train()
    adam: Any = torch.optim.Adam(student.parameters(), 1e-4)
    draw = torch.Generator().manual_seed(0)
    began = time.process_time()
    while time.process_time() - began < seconds:
        for place in torch.randperm(len(data), generator=draw).tolist():
            palettizer.step()
            loss = nn.functional.mse_loss(student(data[place]), targets[place])
            adam.zero_grad()
            loss.backward()
            adam.step()
            if time.process_time() - began >= seconds:
                break
    student.eval()
    return palettizer.finalize()


def skm(network: nn.Module, data: Sequence[Tensor], fields: dict[str, Any], seconds: float) -> nn.Module:
    """coremltools' k-means weighted by the Fisher information of the data, which takes what time it takes."""
    from coremltools.optimize.torch.palettization import SKMPalettizer, SKMPalettizerConfig

    config = SKMPalettizerConfig.from_dict({"global_config": fields})
    noise = torch.Generator().manual_seed(0)

    def loss(model: Any, x: Tensor) -> Tensor:
        output = model(x)  # of the float network itself: a target beside it, or its gradient would be zero
        return nn.functional.mse_loss(output, output.detach() + torch.randn(output.shape, generator=noise))

    return SKMPalettizer(copy.deepcopy(network), config).compress(list(data), loss)


def networks() -> Table:
    """The same network, data, bytes and time."""
    table = Table(
        "Tuning against coremltools.optimize.torch", f"{NOTE} DKM trains for as long as tuning took."
    )
    sources = {"mlp": (mlp, vectors, (16, 256)), "convnet": (convnet, images, (1, 64, 16, 16))}
    for kind, (build, draw, shape) in sources.items():
        network, data, test = build(), draw(1, 64), draw(2, 16)
        plain = convert(
            traced(network, test[0]), "iOS18", inputs=[ct.TensorType("x", shape, dtype=np.float32)]
        )
        samples = [{"x": x.numpy()} for x in data]
        with torch.no_grad():
            wanted = [network(x).numpy() for x in test]
        for recipe in RECIPES:
            start = mp.compress(plain, f"{recipe}-gptq", calibration=samples)
            began = time.process_time()
            tuned = mp.tune(plain, start, samples, minutes=60, steps=STEPS)
            seconds = time.process_time() - began
            row: dict[str, Any] = {"network": kind, "recipe": recipe, "seconds": seconds}
            for name, model in {"gptq": start, "tuned": tuned}.items():
                run = Interpreter(model, precision="float32").run
                row[name] = _sqnr(wanted, [next(iter(run({"x": x.numpy()}).values())) for x in test])
            for name, train in {"dkm": dkm, "skm": skm}.items():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    theirs = train(network, data, their_config(recipe), seconds)
                with torch.no_grad():
                    row[name] = _sqnr(wanted, [theirs(x).numpy() for x in test])
            table.add(**row)
    return table


def tasks() -> Table:
    """Networks trained on real data: how far tuning at 3 bits goes towards 4, and what it does for 2."""
    from milpasses_tools import digits

    from bench._tasks_small import digits_task, measured_windows, transformer_task
    from bench._tasks_unequal import unequal_task

    held_out = [{digits.INPUT: image[None]} for image in digits.load().images]
    unequal, others = unequal_task()
    sources = [(digits_task(), held_out), (transformer_task(), measured_windows()), (unequal, others)]
    table = Table("Tuning on tasks", f"{NOTE} Accuracy: of the answers, against the labels.")
    for task, measured in sources:
        samples = list(task.calibration)[:256]
        wanted = _outputs(task.model, measured)
        for recipe in (*RECIPES, "pal4-g16"):
            start = mp.compress(task.model, f"{recipe}-gptq", calibration=samples)
            row: dict[str, Any] = {"task": task.name, "recipe": recipe}
            row["gptq"] = _sqnr(wanted, _outputs(start, measured))
            row["gptq_accuracy"] = f"{100 * task.hits(start).mean():.2f} %"
            row |= {"tuned": "", "gain": "", "tuned_accuracy": "", "seconds": ""}
            if recipe in RECIPES:
                began = time.process_time()
                tuned = mp.tune(task.model, start, samples, minutes=60, steps=STEPS)
                row["seconds"] = time.process_time() - began
                row["tuned"] = _sqnr(wanted, _outputs(tuned, measured))
                row["gain"] = row["tuned"] - row["gptq"]
                row["tuned_accuracy"] = f"{100 * task.hits(tuned).mean():.2f} %"
            table.add(**row)
    return table


def _outputs(model: Any, inputs: Sequence[dict[str, Any]]) -> list[np.ndarray]:
    run = Interpreter(model).run
    return [next(iter(run(one).values())) for one in inputs]


def _sqnr(wanted: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> float:
    pairs = [(np.float64(a), np.float64(b)) for a, b in zip(wanted, found, strict=True)]
    return decibels(sum((a**2).sum() for a, _ in pairs), sum(((a - b) ** 2).sum() for a, b in pairs))


SECTIONS: dict[str, Callable[[], Table]] = {"networks": networks, "tasks": tasks}


def main() -> None:
    """Print the tables that were asked for, as Markdown."""
    for name in sys.argv[1:] or SECTIONS:
        print(SECTIONS[name]().markdown(), flush=True)


if __name__ == "__main__":
    main()
