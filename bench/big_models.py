"""Language models of billions of weights, written to disk one weight at a time.

    python -m bench.big_models PATH.mlpackage [--layers 32]

The shape is Llama 3's 8 B: 32 layers of width 4,096, hidden width 14,336, keys and values of 1,024 channels,
128,256 tokens; 8.0 billion float16 weights, 16 GB. Attention itself, which has no weights, is left out, so
that the program stays short: its four projections are there, one after the other.
"""

import argparse
import math
import shutil
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil.mil import types

from bench.models import CONTEXT, convert, mb
from bench.networks import heavy_tailed
from milpasses import _coremltools as host
from milpasses.program.blobfile import BlobWriter
from milpasses.program.package import MODEL_PATH, new_message
from milpasses.program.proto import make_type

_POOL = 1 << 24  # random values, of which every weight is a stretch, scaled
_FILE = f"{MODEL_PATH}weights/weight.bin"
_OPSET = "CoreML8"  # iOS18


class _Writer:
    """Appends ops to ``block`` and their weights to ``blobs``."""

    def __init__(self, block: Any, blobs: BlobWriter) -> None:
        self.block, self.blobs = block, blobs
        self.rng = np.random.default_rng(0)
        self.pool = heavy_tailed(self.rng, (_POOL,), 1.0).astype(np.float16)
        self.weights = 0

    def op(self, op_type: str, name: str, dtype: str, shape: tuple[int, ...], **inputs: Any) -> str:
        op = self._add(op_type, name, dtype, shape)
        for param, value in inputs.items():
            argument = op.inputs[param].arguments.add()
            if isinstance(value, str):
                argument.name = value
            else:
                argument.value.CopyFrom(value)
        return name

    def matrix(self, name: str, rows: int, columns: int) -> str:
        """A const of random values; the same stretch of the pool comes again under other scales."""
        start = int(self.rng.integers(_POOL))
        values = np.resize(np.roll(self.pool, -start), rows * columns).reshape(rows, columns)
        values *= (self.rng.lognormal(0, 0.2, (rows, 1)) / math.sqrt(columns)).astype(np.float16)
        self.weights += values.size
        offset = self.blobs.write(values, "float16")
        op = self._add("const", name, "float16", (rows, columns))
        value = op.attributes["val"]
        value.type.CopyFrom(make_type("float16", (rows, columns)))
        value.blobFileValue.fileName, value.blobFileValue.offset = _FILE, offset
        return name

    def linear(self, x: str, name: str, outputs: int, inputs: int) -> str:
        weight = self.matrix(f"{name}_weight", outputs, inputs)
        return self.op("linear", name, "float16", (1, CONTEXT, outputs), x=x, weight=weight)

    def _add(self, op_type: str, name: str, dtype: str, shape: tuple[int, ...]) -> Any:
        op = self.block.operations.add(type=op_type)
        op.attributes["name"].CopyFrom(host.scalar_value(name))
        op.outputs.add(name=name).type.CopyFrom(make_type(dtype, shape))
        return op


def write_decoder(
    path: Path,
    layers: int = 32,
    width: int = 4096,
    hidden: int = 14336,
    keys: int = 1024,
    vocab: int = 128256,
) -> int:
    """Write the package ``path``; returns its number of weights."""
    _template(vocab).save(str(path))
    spec_path = next(path.rglob("model.mlmodel"))
    spec = new_message("Model_pb2", "Model")
    spec.ParseFromString(spec_path.read_bytes())
    block = spec.mlProgram.functions["main"].block_specializations[_OPSET]
    del block.operations[:]
    weights = spec_path.parent / "weights"
    shutil.rmtree(weights, ignore_errors=True)
    weights.mkdir()
    blobs = BlobWriter(weights / "weight.bin")
    writer = _Writer(block, blobs)
    flat = (1, CONTEXT, width)
    table = writer.matrix("embedding", vocab, width)
    zero, no = host.scalar_value(np.int32(0)), host.scalar_value(False)
    lookup = {"x": table, "indices": "ids", "axis": zero, "batch_dims": zero, "validate_indices": no}
    x = writer.op("gather", "tokens", "float16", flat, **lookup)
    for layer in range(layers):
        name = f"layer_{layer}"
        query = writer.linear(x, f"{name}_query", width, width)
        for side in ("key", "value"):
            narrow = writer.linear(x, f"{name}_{side}", keys, width)
            narrow = writer.op("silu", f"{name}_{side}_act", "float16", (1, CONTEXT, keys), x=narrow)
        mixed = writer.linear(query, f"{name}_output", width, width)
        x = writer.op("add", f"{name}_attended", "float16", flat, x=x, y=mixed)
        gate = writer.linear(x, f"{name}_gate", hidden, width)
        gate = writer.op("silu", f"{name}_act", "float16", (1, CONTEXT, hidden), x=gate)
        up = writer.linear(x, f"{name}_up", hidden, width)
        up = writer.op("mul", f"{name}_gated", "float16", (1, CONTEXT, hidden), x=gate, y=up)
        x = writer.op(
            "add", f"{name}_out", "float16", flat, x=x, y=writer.linear(up, f"{name}_down", width, hidden)
        )
    writer.linear(x, "logits", vocab, width)
    blobs.finish()
    spec_path.write_bytes(spec.SerializeToString(deterministic=True))
    return writer.weights


def _template(vocab: int) -> Any:
    """A model with the same interface."""

    @mb.program(input_specs=[mb.TensorSpec((1, CONTEXT), types.int32)], opset_version=ct.target.iOS18)
    def program(ids: Any) -> Any:
        wide = mb.expand_dims(x=mb.cast(x=ids, dtype="fp16"), axes=[-1])
        return mb.tile(x=wide, reps=[1, 1, vocab], name="logits")

    return convert(program, "iOS18")


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("path", type=Path)
    parser.add_argument("--layers", type=int, default=32)
    given = parser.parse_args()
    print(f"{write_decoder(given.path, given.layers):,} weights")


if __name__ == "__main__":
    main()
