"""The adapter to coremltools' private names: nothing else uses one; a missing one costs its feature only."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil.mil import Builder as mb
from milpasses_tools.trace import trace

import milpasses
from milpasses import _coremltools as host
from milpasses.errors import MilpassesError
from milpasses.interpreter import Interpreter

doctor_module: Any = import_module("milpasses_tools.doctor")
ROOT = Path(__file__).resolve().parent.parent
# Where coremltools documents how to write a pass, and what its own optimization guides import.
PUBLIC = {
    "coremltools",
    "coremltools.converters.mil",
    "coremltools.converters.mil.mil",
    "coremltools.converters.mil.mil.passes.graph_pass",
    "coremltools.converters.mil.mil.passes.pass_pipeline",
    "coremltools.converters.mil.mil.passes.pass_registry",
    "coremltools.converters.mil.mil.scope",
    "coremltools.converters.mil.mil.types.symbolic",
    "coremltools.models",
    "coremltools.models.neural_network.quantization_utils",
    "coremltools.optimize.coreml",
}
PRIVATE_NAMES = {
    "ConverterRegistry",
    "PASS_REGISTRY",
    "PassOption",
    "curr_block",
    "load_mil_proto",
    "mil_convert_to_proto",
    "nptype_from_builtin",
    "proto",
    "string_to_nptype",
    "tqdm",
}
PRIVATE_FIELDS = {
    *("__proxy__", "_is_multifunction", "_mil_program", "_pass_options"),
    *("_child_ops", "_input_vars", "_op_selector", "_output_vars", "_sym_type", "_sym_val"),
    *("name_count", "replace_uses_of_var_after_op"),
}
EXCEPTIONS = {
    # The modules of two classes, by name: what is not imported is not given.
    "milpasses/program/sources.py": {
        "coremltools.converters.mil.mil.program",
        "coremltools.models._compiled_model",
    },
    "milpasses/program/model.py": {"_mil_program"},  # CompressedModel overrides it: read when asked for
}
NEEDED = ["coremltools.converters.mil.mil.passes.pass_registry.PASS_REGISTRY"]


def files() -> Iterator[Path]:
    for folder in ("milpasses", "kernels", "tools"):
        yield from (path for path in (ROOT / folder).rglob("*.py") if path.name != "_coremltools.py")


def private_uses(source: str) -> set[str]:
    """The names in ``source`` that only the adapter may use."""
    used: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "coremltools":
            if node.module not in PUBLIC:
                used.add(str(node.module))
            names = [alias.name for alias in node.names]
            used.update(name for name in names if name.startswith("_") or name in PRIVATE_NAMES)
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.startswith("coremltools")]
            used.update(name for name in names if name not in PUBLIC)
        elif isinstance(node, ast.Constant) and re.fullmatch(r"coremltools(\.\w+)+", str(node.value)):
            used.update({str(node.value)} - PUBLIC)  # import_module("coremltools.models.model")
        elif isinstance(node, ast.Attribute) and node.attr in PRIVATE_FIELDS | PRIVATE_NAMES:
            used.add(node.attr)
        elif isinstance(node, ast.Constant) and node.value in PRIVATE_FIELDS:
            used.add(node.value)  # getattr(model, "__proxy__", None)
    return used


def test_no_other_file_uses_a_private_name() -> None:
    used = {str(path.relative_to(ROOT)): private_uses(path.read_text(encoding="utf-8")) for path in files()}
    left = {path: found for path, names in used.items() if (found := names - EXCEPTIONS.get(path, set()))}
    assert left == {}


@pytest.mark.parametrize(
    "source",
    [
        "from coremltools import _OPSET",
        "from coremltools.models.utils import _create_mlpackage",
        "from coremltools.converters.mil.backend.mil import helper",
        "import coremltools.models.model",
        "import_module('coremltools.models.model')",
        "model._mil_program",
        "getattr(model, '__proxy__', None)",
    ],
)
def test_what_counts_as_private(source: str) -> None:
    assert private_uses(source)


def test_all_are_there_and_named_once() -> None:
    assert host.missing_internals() == []
    names = [internal.name for internal in host.INTERNALS]
    assert len(names) == len(set(names)) > 40


# The adapter alone is imported first, to read its list; coremltools, which needs its names itself, is whole.
IMPORT_WITHOUT = """
import sys
from importlib import import_module
from types import ModuleType

stub = sys.modules["milpasses"] = ModuleType("milpasses")
stub.__path__ = [sys.argv[1]]

from milpasses._coremltools import INTERNALS

for name in [name for name in sys.modules if name.split(".")[0] == "milpasses"]:
    del sys.modules[name]
holders = [(internal, import_module(internal.module)) for internal in INTERNALS if not internal.on_instances]
for internal, holder in holders:
    *path, last = internal.attribute.split(".")
    for part in path:
        holder = getattr(holder, part)
    if last and internal.name not in sys.argv:
        delattr(holder, last)

import milpasses

print(milpasses.Recipe.of("int8"))
"""


def test_importing_needs_none_of_them() -> None:
    # register_pass, which registers a pass, is built on what is NEEDED.
    command = [sys.executable, "-c", IMPORT_WITHOUT, str(ROOT / "milpasses"), *NEEDED]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "int8"


def linear() -> Any:
    @mb.program(input_specs=[mb.TensorSpec((1, 64))], opset_version=ct.target.iOS18)
    def program(x: Any) -> Any:
        return mb.linear(x=x, weight=np.random.default_rng(0).normal(size=(64, 64)).astype(np.float32))

    return ct.convert(program, minimum_deployment_target=ct.target.iOS18, skip_model_load=True)


def compressed() -> Any:
    return milpasses.compress(linear(), "int8")


def run() -> Any:
    return Interpreter(linear())


def traced() -> Any:
    with trace():
        linear()


MIL = "coremltools.converters.mil"


@pytest.mark.parametrize(
    ("name", "feature", "use"),
    [
        (f"{MIL}.backend.mil.helper.create_file_value_tensor", "compressing a saved model", compressed),
        (
            f"{MIL}.mil.ops.defs.iOS18.compression.constexpr_blockwise_shift_scale.decompress",
            "checking what an encoding decodes to",
            compressed,
        ),
        (f"{MIL}.frontend.milproto.load.load_mil_proto", "reading the program of a saved model", run),
    ],
)
def test_a_missing_name_costs_its_feature(
    monkeypatch: pytest.MonkeyPatch, name: str, feature: str, use: Callable[[], Any]
) -> None:
    monkeypatch.delattr(name)
    with pytest.raises(host.MissingInternalError) as error:
        use()
    message = str(error.value)
    assert message.startswith(f"{feature}: coremltools {ct.__version__} has no {name}, ")
    assert [internal.name for internal in host.missing_internals()] == [name]
    check = only_check()
    assert (check.status, check.found) == ("fail", f"{name} is missing, and with it {feature}")
    assert check.advice.startswith('pip install "coremltools')
    assert linear() is not None  # the rest goes on


def test_a_missing_field_of_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    has = host._sets
    monkeypatch.setattr(host, "_sets", lambda kind, field: field != "_child_ops" and has(kind, field))
    with pytest.raises(MilpassesError, match=r"tracing a conversion: .* has no .*\.Var\._child_ops"):
        traced()
    assert [internal.attribute for internal in host.missing_internals()] == ["Var._child_ops"]


def test_doctor_finds_all_of_them_here() -> None:
    assert only_check().status == "ok"


def only_check() -> Any:
    (check,) = doctor_module._internals()
    return check
