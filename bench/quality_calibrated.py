"""Outputs after calibrated compression: ours, plain rounding, textbook GPTQ, coremltools' torch methods.

    python -m bench.quality_calibrated

Every figure is measured on inputs that no method saw.
"""

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import coremltools as ct
import coremltools.optimize.coreml as cto
import numpy as np
import torch
from torch import Tensor, nn

import milpasses as mp
from bench.calls import P, Q
from bench.models import convert, traced
from bench.networks import heavy_tailed
from bench.table import Table
from milpasses.calibration import Inputs, output_error
from milpasses.calibration.encode import encode_calibrated
from milpasses.calibration.feedback import feed_back
from milpasses.calibration.matrices import layout_of
from milpasses.data.moments import Moments
from milpasses.encoding.encoder import Encoder
from milpasses.program.flows import Flow
from milpasses.program.weights import Consumer, Weight
from milpasses.recipe.schemes import Scheme

WIDTH = 512
LAYER_CASES = ("pal2-g16", "pal3-g16", "pal4-g16", "int4", "int4-b32", "sparse50", "sparse50+pal2")


def correlated(rng: np.random.Generator, rows: int, width: int, mixing: np.ndarray) -> np.ndarray:
    """Inputs of a layer: mixed noise, each channel at a scale of its own."""
    return rng.normal(size=(rows, width)) @ mixing


def moments_of(x: np.ndarray) -> Moments:
    """The full second moment of (rows, width) inputs of a linear."""
    flow = Flow(1, x.shape[1], 1, 1, [x[None].astype(np.float64)])
    moments = Moments.empty(flow, True, "linear layer")
    moments.add(flow)
    return moments


def layers() -> Table:
    """One linear, 512 x 512: held-out output SQNR of plain, textbook and calibrated encodings."""
    rng = np.random.default_rng(0)
    mixing = 0.06 * rng.normal(size=(WIDTH, WIDTH)) + np.eye(WIDTH)
    mixing *= np.exp(rng.normal(0, 0.7, WIDTH))
    fit, check, test = (moments_of(correlated(rng, 4 * WIDTH, WIDTH, mixing)) for _ in range(3))
    value = heavy_tailed(rng, (WIDTH, WIDTH), 1 / math.sqrt(WIDTH)).astype(np.float16)
    consumer = Consumer("linear", "layer", "weight")
    weight = Weight("weight", value.shape, "float16", (consumer,))
    layout = layout_of(weight, fit)
    signal = output_error(value, np.zeros_like(value), test, consumer)

    def sqnr(encoding: Any) -> float:
        return 10 * math.log10(signal / output_error(value, encoding.decode(), test, consumer))

    note = "A linear of 512 x 512, correlated inputs. SQNR of its outputs in dB, on inputs that nothing saw."
    table = Table("Calibrated layers", note)
    for name in LAYER_CASES:
        encoder = Encoder(weight)
        plain = encoder.encode(value, Scheme.parse(name))
        asked = "+".join(f"{p}-obs" if p.startswith("sparse") else f"{p}-gptq" for p in name.split("+"))
        ours = encode_calibrated(encoder, value, Scheme.parse(asked), Inputs(fit, check))
        row: dict[str, Any] = {"recipe": name, "plain_dB": sqnr(plain), "calibrated_dB": sqnr(ours.encoding)}
        row["gain_dB"] = row["calibrated_dB"] - row["plain_dB"]
        row["same_bytes"] = plain.nbytes == ours.encoding.nbytes
        row["textbook_dB"] = ""
        if name.startswith("int"):  # GPTQ on the min/max grid
            grid = encoder.encode(value, Scheme.parse(f"{name}-minmax"))
            assert fit.gram is not None
            row["textbook_dB"] = sqnr(feed_back(grid, value, layout, fit.gram, 0.01, False, 0)[0])
        row["over_textbook_dB"] = row["calibrated_dB"] - row["textbook_dB"] if row["textbook_dB"] else ""
        table.add(**row)
    return table


def mlp() -> nn.Module:
    """Five linears of 256."""
    rng = np.random.default_rng(1)
    parts: list[nn.Module] = []
    for _ in range(5):
        linear = nn.Linear(256, 256)
        linear.weight.data = torch.from_numpy(heavy_tailed(rng, (256, 256), 1.4 / 16).astype(np.float32))
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def convnet() -> nn.Module:
    """Four 3 x 3 convolutions of 64 channels."""
    rng = np.random.default_rng(2)
    parts: list[nn.Module] = []
    for _ in range(4):
        conv = nn.Conv2d(64, 64, 3, padding=1)
        conv.weight.data = torch.from_numpy(heavy_tailed(rng, (64, 64, 3, 3), 1.4 / 24).astype(np.float32))
        parts += [conv, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).eval()


def vectors(seed: int, count: int) -> list[Tensor]:
    """Correlated inputs of the MLP."""
    mixing = np.random.default_rng(9).normal(size=(256, 256)) / 24 + np.eye(256)
    x = correlated(np.random.default_rng(seed), 16 * count, 256, mixing).astype(np.float32)
    return list(torch.from_numpy(x).split(16))


def images(seed: int, count: int) -> list[Tensor]:
    """Smooth inputs of the convolutions."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 64, 8, 8, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(16, 16), mode="bicubic")
    return list((smooth + 0.3 * torch.randn(smooth.shape, generator=generator)).split(1))


def their_gptq(network: nn.Module, data: list[Tensor], fields: dict[str, Any]) -> nn.Module:
    """coremltools' LayerwiseCompressor."""
    from coremltools.optimize.torch.layerwise_compression import (
        LayerwiseCompressor,
        LayerwiseCompressorConfig,
    )

    settings = {"global_config": {"algorithm": "gptq", **fields}, "input_cacher": "default"}
    config = LayerwiseCompressorConfig.from_dict({**settings, "layers": list(dict(network.named_children()))})
    return LayerwiseCompressor(network, config).compress(data, device="cpu", inplace=False)


def their_palettizer(network: nn.Module, data: list[Tensor], fields: dict[str, Any]) -> nn.Module:
    """coremltools' PostTrainingPalettizer, which takes no data."""
    from coremltools.optimize.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig

    config = PostTrainingPalettizerConfig.from_dict({"global_config": fields})
    return PostTrainingPalettizer(network, config).compress(num_kmeans_workers=1)


GROUPED = {"granularity": "per_grouped_channel", "group_size": 16}
NETWORK_CASES: list[tuple[str, Callable[..., nn.Module], dict[str, Any], Any]] = [
    ("int4-gptq", their_gptq, {"weight_dtype": "uint4", "granularity": "per_channel"}, Q(dtype="int4")),
    (
        "int4-b32-gptq",
        their_gptq,
        {"weight_dtype": "uint4", "granularity": "per_block", "block_size": 32},
        Q(dtype="int4", granularity="per_block", block_size=32),
    ),
    *(
        (f"pal{n}-g16-gptq", their_palettizer, {"n_bits": n, **GROUPED}, P(nbits=n, **GROUPED))
        for n in (2, 3, 4)
    ),
]


def networks() -> Table:
    """The same network, data and bytes: output error of ours, of coremltools.optimize.torch and .coreml."""
    note = (
        "Mean squared error of the last output on inputs that nothing saw, as a share of its mean square. "
        "torch: LayerwiseCompressor (GPTQ) or PostTrainingPalettizer; coreml: the data-free functions."
    )
    table = Table("Calibrated networks", note)
    sources = {"mlp": (mlp, vectors, (16, 256)), "convnet": (convnet, images, (1, 64, 16, 16))}
    for kind, (build, draw, shape) in sources.items():
        network, data, test = build(), draw(1, 64), draw(2, 16)
        plain = convert(
            traced(network, test[0]), "iOS18", inputs=[ct.TensorType("x", shape, dtype=np.float32)]
        )
        for recipe, theirs, fields, op_config in NETWORK_CASES:
            ours = mp.compress(
                plain, recipe, calibration=lambda d=data: [{"x": x.numpy()} for x in d], sequential=True
            )
            config = cto.OptimizationConfig(global_config=op_config)
            free = (
                cto.linear_quantize_weights(plain, config)
                if recipe.startswith("int")
                else cto.palettize_weights(plain, config)
            )
            errors = [_mil_error(plain, one, test) for one in (ours, free)]
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                theirs_error = _torch_error(network, theirs(copy.deepcopy(network), data, fields), test)
            table.add(
                network=kind,
                recipe=recipe,
                ours=errors[0],
                torch=theirs_error,
                coreml=errors[1],
                torch_over_ours=theirs_error / errors[0],
                coreml_over_ours=errors[1] / errors[0],
            )
    return table


def _mil_error(plain: Any, changed: Any, test: list[Tensor]) -> float:
    from milpasses.interpreter import Interpreter

    sides = [Interpreter(model, precision="float32") for model in (plain, changed)]
    before, after = (
        np.concatenate([next(iter(side.run({"x": x.numpy()}).values())) for x in test]) for side in sides
    )
    return float(((before - after) ** 2).mean() / (before**2).mean())


def _torch_error(network: nn.Module, changed: nn.Module, test: list[Tensor]) -> float:
    with torch.no_grad():
        before, after = (torch.cat([side(x) for x in test]) for side in (network, changed.eval()))
    return float(((before - after) ** 2).mean() / (before**2).mean())


def main() -> None:
    """Both tables, as Markdown."""
    for table in (layers(), networks()):
        print(table.markdown())


if __name__ == "__main__":
    main()
