"""What is tried: a small network in every form that each target has, with what milpasses says it computes."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

FORMS = (
    *("int8", "uint8", "int8-asym", "int8-tensor", "pal8", "pal6", "pal4", "pal2", "pal1", "unique"),
    *("sparse50", "sparse2of4", "int4", "uint4-asym", "int4-b16", "int8-b16-asym", "pal3", "pal4-g16"),
    *("pal4-v2", "pal2-g16-v2", "sparse50+pal4", "sparse50+pal4-g16", "sparse50+int8", "sparse50+int4-b16"),
    *("pal4+int8", "pal4-g16+int8", "pal4+uint8-asym"),
)
DENSE, HALF, SCALED, FUNCTIONS = "dense", "half", "pal8 with scales of its own", "pal4, two functions"
ACTIVATIONS = ("a8", "int8+a8", "int8+a8-asym", "pal4+int8+a8")
TARGETS = ("iOS16", "iOS17", "iOS18", "iOS26")
SAMPLES = 2
MODEL, INPUTS = "model.mlpackage", "inputs.npz"


@attrs.frozen
class Case:
    """One model: its form and target, and the folder that holds it, its inputs and what it should give.

    ``functions``: names of the functions to run; ``""`` is the only one of a model without names.
    """

    form: str
    target: str
    folder: Path
    functions: tuple[str, ...] = ("",)

    @property
    def name(self) -> str:
        """``int8 iOS18``."""
        return f"{self.form} {self.target}"


def case_names() -> list[tuple[str, str]]:
    """The (form, target) of every case, oldest target first: forms that the target has."""
    import coremltools as ct

    from milpasses.program.opset import opset_of
    from milpasses.recipe import Scheme

    names: list[tuple[str, str]] = []
    for target in (name for name in TARGETS if name in ct.target.__members__):
        opset = opset_of(int(ct.target[target]))
        held = [form for form in FORMS if opset.missing(Scheme.parse(form)) is None]
        if opset.activations:
            held += [form for form in ACTIVATIONS if opset.joint or "+int8" not in form]
        typed = [SCALED, FUNCTIONS] if opset.table_groups else []
        names += [(form, target) for form in (DENSE, HALF, *held, *typed)]
    return names


def make_case(form: str, target: str, folder: Path) -> Case:
    """Make the model of a case in ``folder``, with inputs and the outputs of milpasses' interpreter."""
    import numpy as np

    from milpasses.interpreter import Interpreter

    folder.mkdir(parents=True)
    path = folder / MODEL
    _save(form, target, path)
    functions = ("first", "second") if form == FUNCTIONS else ("",)
    samples = _samples(1)
    np.savez(folder / INPUTS, x=np.stack([sample["x"] for sample in samples]))
    for function in functions:
        interpreter = Interpreter(path, function or None)
        outputs = [interpreter.run(sample) for sample in samples]
        stacked: dict[str, Any] = {name: np.stack([one[name] for one in outputs]) for name in outputs[0]}
        np.savez(expected_path(folder, function), **stacked)
    return Case(form, target, folder, functions)


def make_cases(folder: Path, names: Sequence[tuple[str, str]]) -> Iterator[Case]:
    """Make the cases of ``names`` one by one, each in a folder of its own."""
    for number, (form, target) in enumerate(names):
        yield make_case(form, target, folder / f"{number:03}")


def expected_path(folder: Path, function: str) -> Path:
    """The file of the outputs that a function should give."""
    return folder / f"expected-{function or 'main'}.npz"


def _samples(seed: int, count: int = SAMPLES) -> list[dict[str, Any]]:
    import numpy as np

    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((1, 16, 12, 12)).astype(np.float32)} for _ in range(count)]


def _network(target: str, factor: float = 1.0) -> Any:
    """Convolutions with relu and pooling between, and a linear op: a model of about 20,000 weights."""
    import coremltools as ct
    import numpy as np
    from coremltools.converters.mil.mil import Builder

    mb: Any = Builder
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> Any:
        values = rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        return (np.round(values * 100) / 100).astype(np.float32)  # few enough values for "unique"

    kernels, last = (weight(32, 16, 3, 3), weight(48, 32, 3, 3)), factor * weight(32, 48)

    @mb.program(input_specs=[mb.TensorSpec(shape=(1, 16, 12, 12))], opset_version=ct.target[target])
    def program(x: Any) -> Any:
        for index, kernel in enumerate(kernels):
            bias = np.full(kernel.shape[0], 0.1, np.float32)
            x = mb.conv(x=x, weight=kernel, bias=bias, pad_type="same", name=f"conv{index}")
            x = mb.relu(x=x)
        x = mb.avg_pool(x=x, kernel_sizes=[12, 12], pad_type="valid")
        return mb.linear(x=mb.reshape(x=x, shape=[1, 48]), weight=last, name="y")

    return program


def _dense(target: str, half: bool = True, factor: float = 1.0) -> Any:
    import coremltools as ct

    return ct.convert(
        _network(target, factor),
        convert_to="mlprogram",
        minimum_deployment_target=ct.target[target],
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        skip_model_load=True,
    )


def _save(form: str, target: str, path: Path) -> None:
    """Save the network in ``form``."""
    import milpasses

    dense = _dense(target, half=form != HALF)
    if form == DENSE:
        dense.save(str(path))
    elif form == SCALED:
        _save_scaled(dense, path)
    elif form == FUNCTIONS:
        _save_functions(target, path)
    else:
        weights = form.removesuffix("-asym") if "a8" in form else form
        weights = weights.removesuffix("a8").rstrip("+")
        rule = f"; min_elements=500 -> {weights}" if weights else ""
        data = _samples(2, 8) if "a8" in form else None
        milpasses.compress(dense, form + rule, calibration=data, output=path)


def _save_scaled(dense: Any, path: Path) -> None:
    """One table, and a scale a channel in an op of its own, which is said to fail on the Neural Engine."""
    import coremltools.optimize.coreml as optimize

    from milpasses import coreml

    config = optimize.OpPalettizerConfig(
        nbits=8, mode="uniform", enable_per_channel_scale=True, weight_threshold=500
    )
    coreml.palettize_weights(dense, optimize.OptimizationConfig(config)).save(str(path))


def _save_functions(target: str, path: Path) -> None:
    """Two functions that share the weights of their convolutions."""
    import coremltools as ct

    import milpasses

    description = ct.utils.MultiFunctionDescriptor()
    for name, factor in (("first", 1.0), ("second", 2.0)):
        one = path.parent / f"{name}.mlpackage"
        _dense(target, factor=factor).save(str(one))
        description.add_function(str(one), "main", name)
    description.default_function_name = "first"
    dense = path.parent / "functions.mlpackage"
    ct.utils.save_multifunction(description, str(dense))
    milpasses.compress(dense, "pal4; min_elements=500 -> pal4", output=path)
