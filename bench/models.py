"""Models to measure on, converted once and kept.

    python -m bench.models [NAME ...] [--target iOS18]

``package(name, target)`` returns the ``.mlpackage``. The networks in ``networks.py`` go through
``ct.convert`` like anyone's; the large language model and the synthetic programs are built with MIL's
builder, which saves the minutes of tracing.
"""

import argparse
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import coremltools as ct
import numpy as np
import torch
from coremltools.converters.mil.mil import Builder, Program, Var, types
from torch import Tensor, nn

from bench import networks
from bench.networks import heavy_tailed

mb: Any = Builder  # its methods, one an op, are registered at run time

CACHE = Path(__file__).parent / ".cache"
CONTEXT = 64  # tokens in the language models' inputs


def decoder_lm(
    target: str, layers: int = 12, width: int = 1024, vocab: int = 32000, tied: bool = True
) -> Program:
    """A GPT-like language model: ids (1, CONTEXT) to logits; 184 million weights by default.

    ``tied``: one const serves the embedding and the head. The causal mask is a const with -inf in it, and at
    4,096 elements larger than the default threshold, as converters leave it.
    """
    rng, heads = np.random.default_rng(0), width // 64
    mask = np.triu(np.full((CONTEXT, CONTEXT), -np.inf, np.float32), 1)

    def matrix(name: str, rows: int, columns: int) -> Var:
        return mb.const(val=heavy_tailed(rng, (rows, columns), 1 / math.sqrt(columns)), name=name)

    def linear(x: Var, name: str, outputs: int) -> Var:
        bias = rng.normal(0, 0.02, outputs).astype(np.float32)
        return mb.linear(x=x, weight=matrix(f"{name}_weight", outputs, x.shape[-1]), bias=bias, name=name)

    def norm(x: Var, name: str) -> Var:
        gamma = rng.lognormal(-0.1, 0.3, width).astype(np.float32)
        beta = rng.normal(0, 0.05, width).astype(np.float32)
        return mb.layer_norm(x=x, axes=[-1], gamma=gamma, beta=beta, name=name)

    def attention(x: Var, name: str) -> Var:
        parts = mb.split(x=linear(x, f"{name}_qkv", 3 * width), num_splits=3, axis=-1)
        shape = [1, CONTEXT, heads, width // heads]
        query, key, value = (
            mb.transpose(x=mb.reshape(x=part, shape=shape), perm=[0, 2, 1, 3]) for part in parts
        )
        scores = mb.matmul(x=mb.mul(x=query, y=np.float32(1 / 8)), y=key, transpose_y=True)
        mixed = mb.matmul(x=mb.softmax(x=mb.add(x=scores, y=mask), axis=-1), y=value)
        flat = mb.reshape(x=mb.transpose(x=mixed, perm=[0, 2, 1, 3]), shape=[1, CONTEXT, width])
        return linear(flat, f"{name}_output", width)

    ids = mb.TensorSpec(shape=(1, CONTEXT), dtype=types.int32)

    @mb.program(input_specs=[ids], opset_version=ct.target[target])
    def program(ids: Var) -> Var:
        embedding = matrix("embedding", vocab, width)
        x = mb.gather(x=embedding, indices=ids, axis=0, name="tokens")
        for layer in range(layers):
            name = f"layer_{layer}"
            x = mb.add(x=x, y=attention(norm(x, f"{name}_norm_1"), f"{name}_attention"))
            up = mb.gelu(
                x=linear(norm(x, f"{name}_norm_2"), f"{name}_up", 4 * width), mode="TANH_APPROXIMATION"
            )
            x = mb.add(x=x, y=linear(up, f"{name}_down", width))
        head = embedding if tied else matrix("head", vocab, width)
        return mb.linear(x=norm(x, "final_norm"), weight=head, name="logits")

    return program


def many_ops(target: str, count: int) -> Program:
    """A chain of ``count`` linears (64 x 64: 4,096 float16 weights each), each followed by a tanh."""
    rng = np.random.default_rng(0)
    start = mb.TensorSpec(shape=(1, 64), dtype=types.fp16)

    @mb.program(input_specs=[start], opset_version=ct.target[target])
    def program(x: Var) -> Var:
        for index in range(count):
            value = heavy_tailed(rng, (64, 64), 1.5 / 8).astype(np.float16)
            weight = mb.const(val=value, name=f"weight_{index}")
            x = mb.tanh(x=mb.linear(x=x, weight=weight, name=f"linear_{index}"), name=f"tanh_{index}")
        return x

    return program


def one_weight(target: str, elements: int) -> Program:
    """One float16 linear of 1,024 inputs whose weight has ``elements`` elements, a multiple of 1,024."""
    if elements % 1024:
        raise ValueError(f"elements: {elements:,} is not a multiple of 1,024")
    value = heavy_tailed(np.random.default_rng(0), (elements // 1024, 1024), 1 / 32).astype(np.float16)
    start = mb.TensorSpec(shape=(1, 1024), dtype=types.fp16)

    @mb.program(input_specs=[start], opset_version=ct.target[target])
    def program(x: Var) -> Var:
        return mb.linear(x=x, weight=mb.const(val=value, name="weight"), name="linear")

    return program


def convert(source: Any, target: str, **options: Any) -> "ct.models.MLModel":
    """Convert ``source`` for ``target`` in float16, without loading the result."""
    model: Any = ct.convert(
        source,
        convert_to="mlprogram",
        minimum_deployment_target=ct.target[target],
        skip_model_load=True,
        **options,
    )
    return model


def traced(network: nn.Module, *inputs: Tensor) -> Any:
    with torch.no_grad():
        return torch.jit.trace(network, inputs, check_trace=False)


def _resnet50(target: str) -> "ct.models.MLModel":
    images = ct.TensorType("image", (1, 3, 224, 224))
    return convert(traced(networks.resnet50(), networks.smooth_noise(1, 224)), target, inputs=[images])


def _yolo_classifier(target: str) -> "ct.models.MLModel":
    images = ct.ImageType("image", (1, 3, 224, 224), scale=1 / 255)
    return convert(traced(networks.yolo_classifier(), networks.smooth_noise(1, 224)), target, inputs=[images])


def _mobilenet(target: str) -> "ct.models.MLModel":
    images = ct.ImageType("image", (1, 3, 224, 224), scale=1 / 58, bias=[-2.1, -2.0, -1.8])
    labels = ct.ClassifierConfig([f"class {index}" for index in range(1000)])
    network = nn.Sequential(networks.mobilenet_v3_small(), nn.Softmax(1)).eval()
    return convert(
        traced(network, networks.smooth_noise(1, 224)), target, inputs=[images], classifier_config=labels
    )


def _encoder(target: str, **sizes: int) -> "ct.models.MLModel":
    ids = ct.TensorType("ids", (1, CONTEXT), dtype=np.int32)
    network = traced(networks.transformer_encoder(**sizes), torch.zeros(1, CONTEXT, dtype=torch.int32))
    return convert(network, target, inputs=[ids])


def _recurrent(kind: str, target: str) -> "ct.models.MLModel":
    return convert(
        traced(networks.recurrent(kind), torch.zeros(20, 1, 64)),
        target,
        inputs=[ct.TensorType("x", (20, 1, 64))],
    )


def _stateful(target: str) -> "ct.models.MLModel":
    network, tensor_type = networks.stateful_decoder(), cast(Any, ct.TensorType)
    length = ct.RangeDim(1, CONTEXT, default=1)
    states = [
        ct.StateType(tensor_type(shape=buffer.shape, dtype=np.float16), name)
        for name, buffer in network.named_buffers()
    ]
    ids = ct.TensorType("ids", (1, 1), dtype=np.int32)
    mask = ct.TensorType("mask", (1, 1, 1, length), dtype=np.float16)
    example = torch.zeros(1, 1, dtype=torch.int32), torch.zeros(1, 1, 1, 5)
    return convert(traced(network, *example), target, inputs=[ids, mask], states=states)


MODELS: dict[str, Callable[[str], "ct.models.MLModel"]] = {
    "resnet50": _resnet50,
    "mobilenet_v3_small": _mobilenet,
    "yolo_classifier": _yolo_classifier,
    "encoder_base": _encoder,
    "encoder_small": lambda target: _encoder(target, layers=4, width=256, heads=4, vocab=8000),
    "encoder_deep": lambda target: _encoder(target, layers=16, width=512, heads=8, vocab=8000),
    "decoder_184m": lambda target: convert(decoder_lm(target), target),
    "decoder_untied": lambda target: convert(decoder_lm(target, 4, 512, 8000, tied=False), target),
    "stateful_decoder": _stateful,
    "lstm": lambda target: _recurrent("lstm", target),
    "gru": lambda target: _recurrent("gru", target),
}
SIZED: dict[str, Callable[[str, int], Program]] = {"many_ops": many_ops, "one_weight": one_weight}


def package(name: str, target: str = "iOS18") -> Path:
    """Return the ``.mlpackage`` of model ``name`` for ``target``, from the cache or made now.

    ``name``: one of ``MODELS``, or ``many_ops-COUNT``, ``one_weight-ELEMENTS``.
    Raises ``ValueError`` for a name that is none of these.
    """
    base, _, size = name.partition("-")
    if name not in MODELS and not (base in SIZED and size.isdecimal()):
        sized = [f"{sized}-NUMBER" for sized in SIZED]
        raise ValueError(f"unknown model {name!r}; there are {', '.join([*MODELS, *sized])}")
    path = CACHE / f"{name}-{target}-coremltools{ct.__version__}.mlpackage"
    if path.exists():
        return path
    if name in MODELS:
        model = MODELS[name](target)
    else:  # already what a pipeline would make of it, in a fraction of the time
        program = SIZED[base](target, int(size))
        model = convert(program, target, pass_pipeline=ct.PassPipeline.EMPTY)
    CACHE.mkdir(exist_ok=True)
    (CACHE / ".gitignore").write_text("*\n")
    unfinished = path.with_name(f"unfinished-{path.name}")
    if unfinished.exists():
        shutil.rmtree(unfinished)
    model.save(str(unfinished))
    unfinished.rename(path)
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "names", nargs="*", default=list(MODELS), help="default: every model with a fixed size"
    )
    parser.add_argument("--target", default="iOS18")
    options = parser.parse_args()
    for name in options.names:
        start = time.perf_counter()
        path = package(name, options.target)
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        print(f"{size / 1e6:8.1f} MB  {time.perf_counter() - start:6.1f} s  {path}")


if __name__ == "__main__":
    main()
