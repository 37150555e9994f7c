"""Random MIL programs: a seed makes the same one every time."""

from typing import Any

import attrs
import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import get_new_symbol, types
from coremltools.converters.mil.mil.types.symbolic import is_symbolic
from fuzz_weights import Array, Rng, compressed_weight, weight_values

SHAPES = (
    (2, 24), (1, 33), (4, 16), (3, 7, 12), (1, 16, 9), (1, 8, 6, 6), (2, 12, 5, 4), (1, 32, 4, 4),
    (1, 4, 3, 4, 5),
)  # fmt: skip
WIDTHS = (1, 2, 3, 4, 5, 7, 8, 12, 16, 24, 32, 33, 48, 64)
NAMES = ("", "", "", "dense", "block.0.proj", "0.weight", "a/b:c", "w w", "conv_1")


@attrs.define
class Ingredients:
    """What a program is made of as it grows: ``steps`` says it to people."""

    rng: Rng
    typed: bool
    dtype: Any
    compresses: bool
    steps: list[str] = attrs.field(factory=list)
    known: dict[tuple[int, ...], list[Any]] = attrs.field(factory=dict)
    named: int = 0

    def chance(self, share: float) -> bool:
        """True for that share of the draws."""
        return bool(self.rng.random() < share)

    def pick(self, values: Any) -> Any:
        """One of ``values``, as it is."""
        return values[int(self.rng.integers(len(values)))]

    def weight(self, *shape: int, odd: bool = True) -> Any:
        """A weight: a new one, one that was there before, an equal one, or a compressed one."""
        known = self.known.setdefault(shape, [])
        if known and self.chance(0.25):
            weight = self.pick(known)
            return weight if self.chance(0.5) or not isinstance(weight, np.ndarray) else weight.copy()
        if odd and self.compresses and self.chance(0.2) and int(np.prod(shape)) >= 10:
            self.steps.append(f"compressed {shape}")
            return compressed_weight(self.rng, shape, self.dtype, self.typed)
        values = self.values(shape)
        if self.chance(0.3):
            values = mb.const(val=values, name=self.name("const"))
        known.append(values)
        return values

    def values(self, shape: tuple[int, ...], kind: str = "") -> Array:
        """As ``weight_values``, in the type of the program."""
        with np.errstate(over="ignore"):
            return weight_values(self.rng, shape, kind).astype(self.dtype)

    def number(self, value: float) -> Any:
        """A scalar in the type of the program."""
        return self.dtype(value)

    def name(self, op: str) -> str:
        """A name for an op, sometimes one that no saved program could have."""
        self.named += 1
        given = self.pick(NAMES)
        return f"{given}_{self.named}" if given else f"{op}_{self.named}"


def _linear(make: Ingredients, x: Any) -> Any:
    width = make.pick(WIDTHS)
    bias = {"bias": make.values((width,), "normal")} if make.chance(0.5) else {}
    return mb.linear(x=x, weight=make.weight(width, x.shape[-1]), name=make.name("linear"), **bias)


def _matmul(make: Ingredients, x: Any) -> Any:
    width, turned = make.pick(WIDTHS), make.chance(0.5)
    shape = (width, x.shape[-1]) if turned else (x.shape[-1], width)
    if x.rank == 3 and make.chance(0.4):
        shape = (x.shape[0], *shape)
    return mb.matmul(x=x, y=make.weight(*shape), transpose_y=turned, name=make.name("matmul"))


def _matmul_left(make: Ingredients, x: Any) -> Any:
    width, turned = make.pick(WIDTHS), make.chance(0.5)
    shape = (x.shape[-2], width) if turned else (width, x.shape[-2])
    return mb.matmul(x=make.weight(*shape), y=x, transpose_x=turned, name=make.name("matmul"))


def _conv(make: Ingredients, x: Any) -> Any:
    channels, rank = x.shape[1], x.rank - 2
    groups = make.pick([g for g in (1, 1, 2, 4, channels) if channels % g == 0])
    outputs = groups * make.pick((1, 2, 3, 4, 8))
    kernel = tuple(min(make.pick((1, 2, 3)), size) for size in x.shape[2:])
    strides = [make.pick((1, 1, 2))] * rank
    bias = {"bias": make.values((outputs,), "normal")} if make.chance(0.5) else {}
    weight = make.weight(outputs, channels // groups, *kernel)
    if make.chance(0.5):
        return mb.conv(
            x=x, weight=weight, groups=groups, strides=strides, pad_type=make.pick(("same", "valid")),
            name=make.name("conv"), **bias,
        )  # fmt: skip
    weight = make.weight(channels, outputs // groups, *kernel)
    return mb.conv_transpose(
        x=x, weight=weight, groups=groups, strides=strides, name=make.name("conv_transpose"), **bias
    )


def _dynamic_conv(make: Ingredients, x: Any) -> Any:
    """A convolution whose weight depends on the input."""
    weight = make.weight(4, x.shape[1], *[1] * (x.rank - 2))
    factor = mb.reduce_mean(x=x, axes=list(range(x.rank)), keep_dims=True)
    return mb.conv(x=x, weight=mb.mul(x=weight, y=factor), name=make.name("conv"))


def _gather(make: Ingredients, x: Any) -> Any:
    rows, width = make.pick((5, 10, 40)), make.pick(WIDTHS)
    table = make.weight(rows, width)
    indices = mb.cast(
        x=mb.clip(x=mb.abs(x=x), alpha=make.number(0), beta=make.number(rows - 1)), dtype="int32"
    )
    found = mb.gather(x=table, indices=mb.reduce_max(x=indices, axes=[-1], keep_dims=False), axis=0)
    return found if found.rank > 1 else mb.expand_dims(x=found, axes=[0])


def _recurrent(make: Ingredients, x: Any) -> Any:
    hidden, width = make.pick((1, 4, 8)), x.shape[-1]
    kind = make.pick(("lstm", "gru", "rnn"))
    gates = {"lstm": 4, "gru": 3, "rnn": 1}[kind]
    state = np.zeros((x.shape[1], hidden), make.dtype)
    states = {"initial_h": state, **({"initial_c": state.copy()} if kind == "lstm" else {})}
    weights = {
        "weight_ih": make.values((gates * hidden, width)),
        "weight_hh": make.values((gates * hidden, hidden)),
    }
    made = getattr(mb, kind)(x=x, output_sequence=True, name=make.name(kind), **states, **weights)
    return made[0]


def _einsum(make: Ingredients, x: Any) -> Any:
    width = make.pick(WIDTHS)
    if x.rank == 3:
        return mb.einsum(values=(x, make.weight(x.shape[2], x.shape[1], width)), equation="chw,whr->chr")
    weight = make.weight(x.shape[0], x.shape[3], x.shape[2], width)
    return mb.einsum(values=(x, weight), equation="nchw,nwhu->nchu")


def _attention(make: Ingredients, x: Any) -> Any:
    batch, _, width = x.shape
    length = make.pick((3, 8))
    keys, values = (make.weight(batch, length, width, odd=False) for _ in range(2))
    return mb.scaled_dot_product_attention(query=x, key=keys, value=values, name=make.name("attention"))


def _cond(make: Ingredients, x: Any) -> Any:
    large = mb.greater(x=mb.reduce_sum(x=x, axes=list(range(x.rank)), keep_dims=False), y=make.number(0))
    width = make.pick(WIDTHS)
    first = make.weight(width, x.shape[-1], odd=False)
    second = first if make.chance(0.4) else make.weight(width, x.shape[-1], odd=False)
    return mb.cond(
        pred=large,
        _true_fn=lambda: mb.linear(x=x, weight=first, name=make.name("linear")),
        _false_fn=lambda: mb.linear(x=mb.relu(x=x), weight=second, name=make.name("linear")),
        name=make.name("cond"),
    )


def _loop(make: Ingredients, x: Any) -> Any:
    weight = make.weight(x.shape[-1], x.shape[-1], odd=False)
    _, last = mb.while_loop(
        _cond=lambda i, y: mb.less(x=i, y=2.0),
        _body=lambda i, y: (mb.add(x=i, y=1.0), mb.tanh(x=mb.linear(x=y, weight=weight))),
        loop_vars=(0.0, x),
        name=make.name("loop"),
    )
    return last


def _constant(make: Ingredients, x: Any) -> Any:
    """A grid or a mask: no weight, though large."""
    values = make.weight(*x.shape) if x.rank > 1 else make.values(x.shape)
    return make.pick((mb.add, mb.mul, mb.sub, mb.maximum))(x=x, y=values, name=make.name("grid"))


def _moved_weight(make: Ingredients, x: Any) -> Any:
    """A weight that is reshaped, turned or cut before an op takes it."""
    width = make.pick(WIDTHS)
    way = make.pick(("transpose", "reshape", "slice"))
    if way == "transpose":
        weight = mb.transpose(x=make.weight(x.shape[-1], width), perm=[1, 0])
    elif way == "reshape":
        weight = mb.reshape(x=make.weight(1, width, x.shape[-1]), shape=[width, x.shape[-1]])
    else:
        weight = mb.slice_by_size(
            x=make.weight(width + 2, x.shape[-1]), begin=[1, 0], size=[width, x.shape[-1]]
        )
    return mb.linear(x=x, weight=weight, name=make.name("linear"))


def _norm(make: Ingredients, x: Any) -> Any:
    width = x.shape[-1]
    gamma, beta = (make.values((width,), "normal") for _ in range(2))
    return mb.layer_norm(
        x=x, axes=[-1], gamma=gamma, beta=beta, epsilon=make.number(1e-3), name=make.name("norm")
    )


def _plain(make: Ingredients, x: Any) -> Any:
    op = make.pick(("relu", "tanh", "sigmoid", "gelu", "softmax", "abs", "identity", "clip"))
    options = {"clip": {"alpha": make.number(-2), "beta": make.number(2)}, "softmax": {"axis": -1}}.get(
        op, {}
    )
    return getattr(mb, op)(x=x, name=make.name(op), **options)


def _shape(make: Ingredients, x: Any) -> Any:
    if x.rank == 5 or make.chance(0.5):
        return mb.reshape(x=x, shape=[x.shape[0], int(np.prod(x.shape[1:]))])
    if x.rank == 2:
        return mb.expand_dims(x=x, axes=[1])
    return mb.transpose(x=x, perm=[0, *range(x.rank - 1, 0, -1)], name=make.name("transpose"))


def _joined(make: Ingredients, x: Any) -> Any:
    return mb.concat(values=(x, mb.relu(x=x), x), axis=1, name=make.name("concat"))


_STEPS: tuple[tuple[Any, tuple[int, ...], int], ...] = (
    (_linear, (2, 3, 4), 5),
    (_matmul, (2, 3, 4), 4),
    (_matmul_left, (2,), 2),
    (_conv, (3, 4, 5), 9),
    (_dynamic_conv, (3, 4), 1),
    (_gather, (2, 3), 2),
    (_recurrent, (3,), 3),
    (_einsum, (3, 4), 2),
    (_attention, (3,), 1),
    (_cond, (2, 3), 2),
    (_loop, (2, 3), 1),
    (_constant, (2, 3, 4, 5), 1),
    (_moved_weight, (2, 3), 2),
    (_norm, (2, 3, 4), 1),
    (_plain, (2, 3, 4, 5), 4),
    (_shape, (2, 3, 4, 5), 2),
    (_joined, (3, 4), 1),
)
_ANY_BATCH = (_linear, _conv, _dynamic_conv, _cond, _loop, _moved_weight, _norm, _plain, _joined)
MOST_ELEMENTS = 4000  # of an activation
MOST_BATCH = 8  # of a program whose first dimension is flexible


def _sizes(x: Any) -> tuple[int, ...]:
    """The shape, with the largest batch where it is flexible."""
    return tuple(MOST_BATCH if is_symbolic(size) else int(size) for size in x.shape)


def _grow(make: Ingredients, x: Any, count: int) -> tuple[Any, ...]:
    """The outputs of a program of ``count`` steps; branches start at values that others took already."""
    values, outputs = [x], []
    for _ in range(count):
        start = values[-1] if make.chance(0.8) else make.pick(values)
        fits = [
            step
            for step, ranks, weight in _STEPS
            if start.rank in ranks
            and (step in _ANY_BATCH or not is_symbolic(start.shape[0]))
            and (make.typed or step is not _attention)
            and (make.typed or make.dtype == np.float32 or step is not _recurrent)
            for _ in range(weight)
        ]
        step = make.pick(fits)
        made = step(make, start)
        make.steps.append(f"{step.__name__[1:]} {_sizes(start)} -> {_sizes(made)}")
        if int(np.prod(_sizes(made))) <= MOST_ELEMENTS * (MOST_BATCH if is_symbolic(made.shape[0]) else 1):
            values.append(made)
        elif made.rank > 1:
            values.append(mb.reduce_mean(x=made, axes=[-1], keep_dims=True))
        if make.chance(0.1):
            outputs.append(made)
    outputs = [*outputs, values[-1]]
    if make.chance(0.03):
        outputs.append(mb.const(val=make.values((8, 16)), name="returned"))
    # An output is named, and no input: coremltools gives each name to one thing.
    return tuple(mb.identity(x=out, name=f"out{i}") for i, out in enumerate(outputs))


@attrs.frozen(eq=False)
class RandomProgram:
    """A MIL program in memory: ``target`` by name, its precision, and ``steps`` that say what it holds.

    ``flexible``: its first dimension is 1 to ``MOST_BATCH``.
    """

    program: Any
    target: str
    precision: Any
    passes: Any
    shape: tuple[int, ...]
    steps: list[str]
    flexible: bool = False

    def sample(self, seed: int) -> dict[str, Array]:
        """Inputs to run it on."""
        rng = np.random.default_rng(seed)
        shape = (int(rng.integers(1, MOST_BATCH + 1)), *self.shape[1:]) if self.flexible else self.shape
        return {"x": rng.standard_normal(shape).astype(np.float32)}

    def convert(self, **options: Any) -> Any:
        """The program as an ``MLModel``, converted by coremltools; it is used up."""
        if self.flexible:
            batch = ct.RangeDim(1, MOST_BATCH, default=self.shape[0])
            options["inputs"] = [ct.TensorType(name="x", shape=(batch, *self.shape[1:]))]
        return ct.convert(
            self.program,
            minimum_deployment_target=ct.target[self.target],
            compute_precision=self.precision,
            skip_model_load=True,
            **{"pass_pipeline": self.passes, **options},
        )


FEW_PASSES = (
    "common::const_elimination",
    "common::add_fp16_cast",
    "common::cast_optimization",
    "common::const_elimination",
    "common::dead_code_elimination",
    "common::dedup_op_and_var_names",
    "mil_backend::sanitize_name_strings",
)


def random_program(seed: int) -> RandomProgram:
    """The program of ``seed``: float32, cast to float16 on the way, or float16 from the start.

    Only coremltools' cast pass does not take weights that are compressed already.
    """
    rng = np.random.default_rng(seed)
    target = str(rng.choice(["iOS16", "iOS17", "iOS18", "iOS18", "iOS18", "iOS26"]))
    cast, half, full = bool(rng.random() < 0.5), bool(rng.random() < 0.6), bool(rng.random() < 0.4)
    few = [name for name in FEW_PASSES if cast or name != "common::add_fp16_cast"]
    dtype = np.float16 if half and not cast else np.float32
    make = Ingredients(rng, target in ("iOS18", "iOS26"), dtype, compresses=not cast)
    shape = make.pick(SHAPES)
    mb.name_count.clear()
    flexible = dtype == np.float32 and bool(np.random.default_rng([seed, 3]).random() < 0.15)
    given = (get_new_symbol(), *shape[1:]) if flexible else shape
    make.steps += ["flexible"] * flexible
    spec = mb.TensorSpec(shape=given, dtype=types.fp16 if dtype == np.float16 else types.fp32)

    @mb.program(input_specs=[spec], opset_version=ct.target[target])
    def program(x: Any) -> Any:
        return _grow(make, x, int(rng.integers(1, 7)))

    return RandomProgram(
        program,
        target,
        ct.precision.FLOAT16 if cast else ct.precision.FLOAT32,
        ct.PassPipeline.DEFAULT if full else ct.PassPipeline(few),
        shape,
        make.steps,
        flexible,
    )
