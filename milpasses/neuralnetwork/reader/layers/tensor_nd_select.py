"""Layers of the N-dimensional generation that look elements up, write them, or order them."""

from typing import Any

import numpy as np

from milpasses.neuralnetwork.reader.layers.linear import looked_up
from milpasses.neuralnetwork.reader.layers.tensor_nd_shape import lifted, static
from milpasses.neuralnetwork.reader.network import Layer
from milpasses.neuralnetwork.reader.registry import layer
from milpasses.neuralnetwork.reader.values import Value
from milpasses.neuralnetwork.spec.errors import LayerError
from milpasses.program.builder import mb

_SCATTER_MODES = ("update", "add", "sub", "mul", "div", "max", "min")


@layer("gather")
def gather(layer: Layer) -> Value:
    """Slices along an axis, by index."""
    value, indices = layer.inputs
    axis = layer.params.axis
    return Value.of(mb.gather(x=value.exact(), indices=indices.ints(), axis=axis, name=layer.name))


@layer("gatherND")
def gather_nd(layer: Layer) -> Value:
    """Slices by vectors of indices."""
    value, indices = layer.inputs
    return lifted(mb.gather_nd(x=value.exact(), indices=indices.ints(), name=layer.name))


@layer("gatherAlongAxis")
def gather_along_axis(layer: Layer) -> Value:
    """Elements along an axis, an index for each."""
    value, indices = layer.inputs
    axis = layer.params.axis
    return Value.of(mb.gather_along_axis(x=value.exact(), indices=indices.ints(), axis=axis, name=layer.name))


@layer("scatter", "scatterAlongAxis", "scatterND")
def scatter(layer: Layer) -> Value:
    """The first input with the third combined into it at the indices of the second."""
    data, indices, updates = layer.exactly(3)
    op = {"scatter": mb.scatter, "scatterAlongAxis": mb.scatter_along_axis}.get(layer.kind, mb.scatter_nd)
    options: dict[str, Any] = {"mode": _SCATTER_MODES[layer.params.mode], "name": layer.name}
    if layer.kind != "scatterND":
        options["axis"] = layer.params.axis
    return Value.of(op(data=data.exact(), indices=indices.ints(), updates=updates.exact(), **options))


@layer("embeddingND")
def embedding_nd(layer: Layer) -> Value:
    """A column of the weights for each index [.., 1]."""
    value, params = layer.value, layer.params
    rows = looked_up(layer, Value(value.variable, value.shape[:-1] or (1,)), int(params.vocabSize))
    return Value(rows, (*value.shape[:-1], int(params.embeddingSize)))


@layer("topK")
def top_k(layer: Layer) -> list[Value]:
    """The largest or smallest elements along an axis, and where they are."""
    params, value = layer.params, layer.value
    k: Any = int(params.K)
    wanted = layer.inputs[1] if len(layer.inputs) > 1 else None
    if wanted is not None:
        # A count that only the run knows: order the whole axis, and keep its beginning.
        k = value.shape[params.axis] if wanted.known is None else static(wanted, "counts")[0]
    values, indices = mb.topk(
        x=value.exact(), k=k, axis=params.axis, ascending=bool(params.useBottomK), name=layer.name
    )
    if wanted is None or wanted.known is not None:
        return [Value.of(values), Value.of(indices)]
    return [
        Value.of(_beginning(variable, params.axis % value.rank, wanted)) for variable in (values, indices)
    ]


def _beginning(variable: Any, axis: int, count: Value) -> Any:
    """The first ``count`` along an axis."""
    rank = len(variable.shape)
    sizes = mb.shape(x=variable)
    parts = [mb.slice_by_index(x=sizes, begin=[0], end=[axis])] if axis else []
    parts.append(mb.reshape(x=count.ints(), shape=[1]))
    if axis + 1 < rank:
        parts.append(mb.slice_by_index(x=sizes, begin=[axis + 1], end=[rank]))
    end = mb.concat(values=parts, axis=0) if len(parts) > 1 else parts[0]
    return mb.slice_by_index(x=variable, begin=[0] * rank, end=end)


@layer("argMin", "argMax")
def arg_extreme(layer: Layer) -> Value:
    """Where the smallest or largest element along an axis is."""
    op = mb.reduce_argmin if layer.kind == "argMin" else mb.reduce_argmax
    keep = not layer.params.removeDim
    return lifted(op(x=layer.value.exact(), axis=layer.params.axis, keep_dims=keep, name=layer.name))


@layer("argSort")
def arg_sort(layer: Layer) -> Value:
    """The indices that bring an axis in order."""
    params = layer.params
    ascending = not params.descending
    return Value.of(mb.argsort(x=layer.value.exact(), axis=params.axis, ascending=ascending, name=layer.name))


def _integer(layer: Layer, index: int, what: str, stored: Any) -> int:
    """The number that input ``index`` gives, if the layer has that input; else the ``stored`` one."""
    return static(layer.inputs[index], what)[0] if len(layer.inputs) > index else int(stored)


@layer("oneHot")
def one_hot(layer: Layer) -> Value:
    """A vector for each index, of two numbers."""
    params = layer.params
    size = _integer(layer, 1, "sizes", params.oneHotVectorSize)
    y = mb.one_hot(
        indices=layer.value.ints(),
        one_hot_vector_size=size,
        axis=params.axis,
        on_value=np.float32(params.onValue),
        off_value=np.float32(params.offValue),
        name=layer.name,
    )
    return Value.of(y)


@layer("cumSum")
def cum_sum(layer: Layer) -> Value:
    """Running sums along an axis."""
    params = layer.params
    axis = _integer(layer, 1, "axes", params.axis)
    y = mb.cumsum(
        x=layer.value.exact(),
        axis=axis,
        exclusive=bool(params.excludeFinalSum),
        reverse=bool(params.reverse),
        name=layer.name,
    )
    return Value.of(y)


@layer("whereNonZero")
def where_non_zero(layer: Layer) -> Value:
    """The indices [count, rank] of the elements that are not 0."""
    return Value.of(mb.non_zero(x=layer.value.exact(), name=layer.name))


@layer("NonMaximumSuppression")
def non_maximum_suppression(layer: Layer) -> list[Value]:
    """Boxes, scores, indices and their number, after boxes that overlap better ones are left out."""
    params, inputs = layer.params, layer.inputs

    def number(index: int, stored: float) -> np.float32:
        known = inputs[index].known if len(inputs) > index else np.float32(stored)
        if known is None:
            raise LayerError("takes thresholds that are known only when the network runs: not supported")
        return np.float32(np.asarray(known).reshape(-1)[0])

    max_boxes = _integer(layer, 4, "numbers of boxes", params.maxBoxes)
    outputs = mb.non_maximum_suppression(
        boxes=inputs[0].exact(),
        scores=inputs[1].exact(),
        iou_threshold=number(2, params.iouThreshold),
        score_threshold=number(3, params.scoreThreshold),
        max_boxes=max_boxes,
        per_class_suppression=bool(params.perClassSuppression),
        name=layer.name,
    )
    return [Value.of(variable) for variable in outputs]


@layer("loadConstantND")
def load_constant_nd(layer: Layer) -> Value:
    """A constant."""
    shape = tuple(int(size) for size in layer.params.shape)
    return Value.of(layer.load(layer.weight(layer.params.data, shape, "data"), layer.name))


@layer("fillLike", "fillStatic", "fillDynamic")
def fill(layer: Layer) -> Value:
    """One number everywhere, in the shape of the input, a given one, or the one that the input lists."""
    return Value.of(mb.fill(shape=shape_from(layer), value=np.float32(layer.params.value), name=layer.name))


def shape_from(layer: Layer) -> Any:
    """The shape of a layer that makes a tensor of its own: ``..Like``, ``..Static`` or ``..Dynamic``."""
    if layer.kind.endswith("Like"):
        return mb.shape(x=layer.value.exact())
    if layer.kind.endswith("Dynamic"):
        return layer.value.ints()
    stored = layer.params.targetShape if layer.kind == "fillStatic" else layer.params.outputShape
    return [int(size) for size in stored]


@layer(
    "randomNormalLike", "randomNormalStatic", "randomNormalDynamic",
    "randomUniformLike", "randomUniformStatic", "randomUniformDynamic",
    "randomBernoulliLike", "randomBernoulliStatic", "randomBernoulliDynamic",
)  # fmt: skip
def random(layer: Layer) -> Value:
    """Random numbers; they differ from those that Core ML draws."""
    p = layer.params
    options: dict[str, Any] = {"shape": shape_from(layer), "seed": int(p.seed), "name": layer.name}
    if layer.kind.startswith("randomNormal"):
        return Value.of(mb.random_normal(mean=np.float32(p.mean), stddev=np.float32(p.stdDev), **options))
    if layer.kind.startswith("randomUniform"):
        return Value.of(mb.random_uniform(low=np.float32(p.minVal), high=np.float32(p.maxVal), **options))
    return Value.of(mb.random_bernoulli(prob=np.float32(p.prob), **options))


@layer("categoricalDistribution")
def categorical(layer: Layer) -> Value:
    """Classes drawn by their probabilities or the logarithms of them."""
    p, x = layer.params, layer.value.exact()
    mode = "logits" if p.isLogits else "probs"
    if p.isLogits and p.temperature not in (0.0, 1.0):
        x = mb.mul(x=x, y=np.float32(1 / p.temperature))
    y = mb.random_categorical(x=x, mode=mode, size=int(p.numSamples), seed=int(p.seed), name=layer.name)
    return Value.of(y)
