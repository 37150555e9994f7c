"""Any scheme, weight and target: encode, lower, write, read, lift and decode, as coremltools decodes it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.frontend.milproto.load import load
from coremltools.converters.mil.mil import types
from coremltools.models import MLModel
from hypothesis import HealthCheck, assume, event, given, settings
from hypothesis import strategies as st
from models import constexprs, materialize
from scheme_strategies import schemes

import milpasses as mp
from milpasses.errors import TargetError
from milpasses.program.memory import MemoryProgram
from milpasses.program.opening import open_program
from milpasses.program.opset import opset_of
from milpasses.recipe import Scheme
from milpasses.rewrite import Rewriter

TARGETS = ("iOS16", "iOS17", "iOS18", "iOS26")
ENTRY_POINTS = ("ct.convert", "a pass", "compress a package", "compress a model", "requantize")
KINDS = ("normal", "few", "tiny", "large", "constant", "sparse")


@st.composite
def shapes(draw: st.DrawFn) -> tuple[int, ...]:
    """Rank 2 to 5, with at least the ten elements that a weight file holds."""
    rank = draw(st.integers(2, 5))
    sizes = st.sampled_from([1, 2, 3, 4, 6, 8, 12, 16])
    kernel = [draw(st.integers(1, 3)) for _ in range(rank - 2)]
    shape = (draw(sizes), draw(sizes), *kernel)
    assume(np.prod(shape) >= 10)
    return shape


def values(shape: tuple[int, ...], dtype: Any, kind: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    made: Any = rng.standard_normal(shape)
    if kind == "few":
        made = np.round(made)
    elif kind == "tiny":
        made = made * 3e-7
    elif kind == "large":
        made = made.clip(-1, 1) * 65504
    elif kind == "constant":
        made = np.full(shape, 0.37)
    elif kind == "sparse":
        made = made * (rng.random(shape) < 0.3)
    return np.asarray(made).astype(dtype)


def program_of(weight: np.ndarray, target: str) -> Any:
    """A linear op, or a convolution, with this weight."""
    mb.name_count.clear()
    given = (2, weight.shape[1]) if weight.ndim == 2 else (1, weight.shape[1], *[3] * (weight.ndim - 2))
    kind = types.fp16 if weight.dtype == np.float16 else types.fp32
    op = mb.linear if weight.ndim == 2 else mb.conv

    @mb.program(input_specs=[mb.TensorSpec(given, kind)], opset_version=ct.target[target])
    def program(x: Any) -> Any:
        return op(x=x, weight=mb.const(val=weight, name="w"), name="y")

    return program


def converted(weight: np.ndarray, target: str, passes: Any = ct.PassPipeline.EMPTY) -> Any:
    return ct.convert(
        program_of(weight, target), minimum_deployment_target=ct.target[target], pass_pipeline=passes,
        compute_precision=ct.precision.FLOAT32, skip_model_load=True,
    )  # fmt: skip


def compressed(entry_point: str, weight: np.ndarray, target: str, recipe: mp.Recipe, folder: Path) -> Any:
    """The record of the weight, and the package that was written."""
    path = folder / "small.mlpackage"
    if entry_point == "ct.convert":
        pipeline = mp.pipeline(recipe, ct.PassPipeline.EMPTY)
        converted(weight, target, pipeline).save(str(path))
        return pipeline.report["w"], path
    if entry_point == "a pass":
        passes, report = ct.PassPipeline(["milpasses::compress_weights"]), mp.Report()
        passes.set_options("milpasses::compress_weights", {"recipe": recipe, "report": report})
        converted(weight, target, passes).save(str(path))
        return report["w"], path
    model = converted(weight, target)
    if entry_point == "compress a package":
        model.save(str(folder / "dense.mlpackage"))
        model = folder / "dense.mlpackage"
    if entry_point == "requantize":
        model = mp.compress(model, "half; min_elements=0 -> half")
    return mp.compress(model, recipe, output=path, requantize=entry_point == "requantize").report["w"], path


def identical(one: Any, other: Any) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@pytest.fixture(scope="module", autouse=True)
def one_temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    before, tempfile.tempdir = tempfile.tempdir, str(tmp_path_factory.mktemp("steps"))
    yield
    tempfile.tempdir = before


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    scheme=schemes, shape=shapes(), dtype=st.sampled_from([np.float16, np.float32]),
    target=st.sampled_from(TARGETS), entry_point=st.sampled_from(ENTRY_POINTS),
    kind=st.sampled_from(KINDS), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_every_step_gives_what_coremltools_decodes(
    scheme: Scheme, shape: tuple[int, ...], dtype: Any, target: str, entry_point: str, kind: str, seed: int
) -> None:
    weight = values(shape, dtype, kind, seed)
    if entry_point == "requantize":
        weight = weight.astype(np.float16).astype(dtype)  # it starts from a model that stores float16
    recipe = mp.Recipe(default=mp.Keep(), rules=[mp.Rule(scheme=scheme, min_elements=0)])
    opset = opset_of(int(ct.target[target]))
    with tempfile.TemporaryDirectory() as name:
        if opset.missing(scheme):
            with pytest.raises(TargetError):
                compressed(entry_point, weight, target, recipe, Path(name))
            event("the target lacks it")
            return
        record, path = compressed(entry_point, weight, target, recipe, Path(name))
        event(record.status)
        (site,) = (
            site for site in MemoryProgram(program_of(weight, target)).sites() if site.weight.name == "w"
        )
        made = Rewriter(recipe, opset).rewrite(site)
        if entry_point != "requantize":  # which starts at other bytes
            assert (made.record.status, made.record.form) == (record.status, record.form)
        if record.status != "compressed":
            return
        opened = open_program(path)
        (read,) = (site for site in opened.sites() if site.weight.name == "w")
        model = MLModel(str(path), skip_model_load=True)
        program = load(model.get_spec(), model.get_spec().specificationVersion, str(model.weights_dir))
        model._mil_program = program
        (op,) = constexprs(model).values()
        theirs = np.asarray(materialize(op))
        assert theirs.shape == weight.shape
        assert theirs.dtype == weight.dtype
        assert np.isfinite(theirs).all()
        lifted = read.existing()
        assert identical(lifted.decode(), theirs)
        assert lifted.form == record.form
        assert lifted.nbytes == record.bytes_after == read.nbytes
        if made.encoding is not None:
            assert identical(made.encoding.decode(), theirs)
            assert made.encoding.nbytes == lifted.nbytes
        error = np.abs(weight.astype(np.float64) - theirs.astype(np.float64)).max()
        assert error == pytest.approx(record.max_error, rel=1e-6)
        (dense,) = (s for s in open_program(mp.decompress(path)).sites() if s.weight.name == "w")
        assert identical(dense.weight.value, theirs)
