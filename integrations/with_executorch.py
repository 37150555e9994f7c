"""ExecuTorch: its Core ML backend keeps only the names of passes, so a recipe is a name.

The program is lowered as anywhere; the Core ML model that went into it is taken out again and compared. Works
on Linux: nothing is compiled for a device.
"""

import tempfile
from pathlib import Path
from typing import Any

import coremltools as ct
import torch
from common import Table
from executorch.backends.apple.coreml.compiler import CoreMLBackend
from executorch.backends.apple.coreml.partition import CoreMLPartitioner
from executorch.examples.apple.coreml.scripts.extract_coreml_models import extract_coreml_models
from executorch.exir import to_edge_transform_and_lower

import milpasses as mp

RULES = mp.register_pass("pal4-g16; op_type=linear -> int8")
RECIPES = ("milpasses::pal4-g16", "milpasses::int4-b32", RULES)


def network() -> torch.nn.Module:
    """Convolutions and a linear layer, of random weights."""
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.BatchNorm2d(64), torch.nn.ReLU(),
        torch.nn.Conv2d(64, 128, 3, stride=2, padding=1), torch.nn.ReLU(),
        torch.nn.Conv2d(128, 256, 3, stride=2, padding=1), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(256, 512), torch.nn.ReLU(),
        torch.nn.Linear(512, 100),
    ).eval()  # fmt: skip


def lower(program: Any, folder: Path, pass_names: list[str] | None = None) -> Path:
    """Lower the program to the Core ML backend; the package that went into it, in ``folder``."""
    specs = CoreMLBackend.generate_compile_specs(
        minimum_deployment_target=ct.target.iOS18, pass_names=pass_names
    )
    partitioner = CoreMLPartitioner(compile_specs=specs, take_over_mutable_buffer=False)
    edge = to_edge_transform_and_lower(program, partitioner=[partitioner])
    extract_coreml_models(edge.to_executorch().buffer, folder)
    packages = list(folder.rglob("*.mlpackage"))
    if len(packages) != 1:
        raise SystemExit(f"the whole network was to be one Core ML model; {len(packages)} were lowered")
    return packages[0]


def main() -> None:
    """Lower without and with each recipe, print the table."""
    program = torch.export.export(network(), (torch.zeros(1, 3, 64, 64),))
    table = Table(("executorch", "torch"))
    with tempfile.TemporaryDirectory() as folder:
        dense = lower(program, Path(folder) / "dense")
        for number, name in enumerate(RECIPES):
            names = [*ct.PassPipeline.DEFAULT.passes, name]
            small = lower(program, Path(folder) / f"small{number}", names)
            table.add("convolutions and linears", name, dense, small)
    table.show()


if __name__ == "__main__":
    main()
