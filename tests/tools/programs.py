"""Small programs of many kinds, for the tools that look inside."""

from collections.abc import Callable
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import types
from models import conv_linear_program, random, weights_program

import milpasses

FP16 = types.fp16


def build(function: Callable[..., Any], *shapes: tuple[int, ...], target: Any = ct.target.iOS18) -> Any:
    """The program of ``function``, with float32 inputs of ``shapes``, its names counted from zero."""
    mb.name_count.clear()
    specs = [mb.TensorSpec(shape=shape) for shape in shapes]
    return mb.program(input_specs=specs, opset_version=target)(function)


def branches() -> Any:
    """A cond with a weight in one branch."""

    def program(x: Any) -> Any:
        large = mb.greater(x=mb.reduce_sum(x=x, axes=[0, 1], keep_dims=False), y=0.0)
        linear = random((8, 8))
        return mb.cond(
            pred=large,
            _true_fn=lambda: mb.linear(x=x, weight=linear, name="dense"),
            _false_fn=lambda: mb.relu(x=x, name="rectified"),
            name="chosen",
        )

    return build(program, (2, 8))


def loop() -> Any:
    """A while_loop over two variables."""

    def program(x: Any) -> Any:
        _, last = mb.while_loop(
            _cond=lambda i, y: mb.less(x=i, y=3.0),
            _body=lambda i, y: (mb.add(x=i, y=1.0), mb.mul(x=y, y=2.0)),
            loop_vars=(0.0, x),
        )
        return last

    return build(program, (2, 2))


def outputs() -> Any:
    """Several outputs of one op, a list of inputs, an int32 table, a constant that is returned."""

    def program(x: Any) -> Any:
        a, b = mb.split(x=x, num_splits=2, axis=1, name="halves")
        joined = mb.concat(values=(b, a), axis=1, name="joined")
        picked = mb.gather(x=joined, indices=np.arange(12, dtype=np.int32) % 4, axis=1, name="picked")
        return picked, mb.add(x=np.float32(1), y=a, name="sum")

    return build(program, (2, 4))


def state() -> Any:
    """A state, read and updated."""
    mb.name_count.clear()

    @mb.program(
        input_specs=[mb.TensorSpec((2, 3), FP16), mb.StateTensorSpec((2, 3), FP16)],
        opset_version=ct.target.iOS18,
    )
    def program(x: Any, memory: Any) -> Any:
        old = mb.read_state(input=memory)
        mb.coreml_update_state(state=memory, value=mb.add(x=x, y=old))
        return old

    return program


def constants() -> Any:
    """Constants of every kind at their uses."""

    def program(x: Any) -> Any:
        y = mb.clip(x=x, alpha=-np.inf, beta=1e-5)
        y = mb.cast(x=y, dtype="fp16")
        y = mb.transpose(x=y, perm=[1, 0])
        return mb.matmul(x=y, y=random((2, 8)).astype(np.float16), transpose_x=False)

    return build(program, (2, 8))


def flexible() -> Any:
    """A size that is not known."""
    from coremltools.converters.mil.mil import get_new_symbol

    mb.name_count.clear()
    shape = (1, get_new_symbol(), 4)

    @mb.program(input_specs=[mb.TensorSpec(shape=shape)], opset_version=ct.target.iOS17)
    def program(x: Any) -> Any:
        return mb.softmax(x=x, axis=-1, name="shares")

    return program


def lists() -> Any:
    """A list, written, scattered, read and gathered."""

    def program(x: Any) -> Any:
        made = mb.make_list(init_length=2, elem_shape=(2, 4), dtype="fp32", name="made")
        made = mb.list_write(ls=made, index=0, value=x, name="written")
        made = mb.list_scatter(
            ls=made, indices=[0, 1], value=mb.stack(values=(x, x), axis=0), name="scattered"
        )
        gathered = mb.list_gather(ls=made, indices=[1, 0], name="gathered")
        return mb.list_read(ls=made, index=0, name="read"), mb.list_length(ls=made), gathered

    return build(program, (2, 4))


def cast_weight() -> Any:
    """A float32 weight that is stored as float16."""

    def program(x: Any) -> Any:
        stored = random((8, 4)).astype(np.float16)
        weight = mb.constexpr_cast(source_val=stored, output_dtype="fp32", name="weight")
        return mb.linear(x=x, weight=weight, name="dense")

    return build(program, (2, 4), target=ct.target.iOS16)


def functions() -> Any:
    """Two functions that share a weight."""
    from coremltools.converters.mil.mil import Function, Program

    mb.name_count.clear()
    program: Any = Program()
    for name in ("main", "other"):
        with Function({"x": mb.placeholder((2, 8))}, opset_version=ct.target.iOS18) as function:
            weight = mb.const(val=random((4, 8)), name="weight")
            weight.op.weight_id = "shared"
            function.set_outputs([mb.linear(x=function.inputs["x"], weight=weight, name=f"{name}_dense")])
        program.add_function(name, function)
    return program


def compressed(recipe: str, target: str) -> Any:
    """The conv-linear program with its weights in the form of ``recipe``."""
    from models import TARGETS, convert

    found = convert(
        conv_linear_program(TARGETS[target]), TARGETS[target], pass_pipeline=milpasses.pipeline(recipe)
    )
    return found._mil_program


PROGRAMS: dict[str, Callable[[], Any]] = {
    "conv_linear": conv_linear_program,
    "conv_linear_ios16": lambda: conv_linear_program(ct.target.iOS16),
    "matmul": lambda: weights_program(random((8, 16)), random((8, 4)), op="matmul"),
    "branches": branches,
    "loop": loop,
    "outputs": outputs,
    "state": state,
    "constants": constants,
    "flexible": flexible,
    "lists": lists,
    "cast_weight": cast_weight,
    "functions": functions,
    **{
        f"{recipe.replace('+', '_')}_{target.lower()}": lambda recipe=recipe, target=target: compressed(
            recipe, target
        )
        for recipe, target in [
            ("int8", "iOS16"),
            ("pal4", "iOS16"),
            ("sparse50", "iOS16"),
            ("int8", "iOS18"),
            ("int8-asym", "iOS18"),
            ("int4", "iOS18"),
            ("int4-b32", "iOS18"),
            ("pal6", "iOS18"),
            ("pal4-g16", "iOS18"),
            ("pal4-v2", "iOS18"),
            ("pal4+int8", "iOS18"),
            ("sparse50", "iOS18"),
            ("sparse50+pal4", "iOS18"),
            ("sparse50+int8", "iOS18"),
        ]
    },
}
