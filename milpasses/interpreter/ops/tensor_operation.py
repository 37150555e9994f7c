"""Ops that make, measure, order or join tensors."""

from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, InterpreterError, op


@op("band_part", moves=True)
def band_part(x: Array, lower: Any = -1, upper: Any = -1) -> Array:
    """Keep ``lower`` diagonals below and ``upper`` above the main one; negative keeps all."""
    rows, columns = np.ogrid[: x.shape[-2], : x.shape[-1]]
    low, high = int(lower), int(upper)
    band = ((low < 0) | (rows - columns <= low)) & ((high < 0) | (columns - rows <= high))
    return np.where(band, x, np.zeros((), x.dtype))


@op("cumsum")
def cumsum(x: Array, axis: Any = 0, exclusive: Any = False, reverse: Any = False) -> Array:
    """Running sum along ``axis``, without the element itself if ``exclusive``."""
    along = int(axis)
    source = np.flip(x, along) if bool(reverse) else x
    total = np.cumsum(source, along, dtype=x.dtype)
    if bool(exclusive):
        total = total - source
    return np.flip(total, along) if bool(reverse) else total


@op("fill")
def fill(shape: Array, value: Any = 0.0) -> Array:
    """A tensor of one value."""
    return np.full(tuple(int(size) for size in shape), value)


@op("fill_like")
def fill_like(ref_tensor: Array, value: Any = 0.0) -> Array:
    """A tensor of one value in the shape of another."""
    return np.full(ref_tensor.shape, value)


@op("non_zero")
def non_zero(x: Array) -> Array:
    """Indices [N, rank] of the elements that are not zero, in row-major order."""
    return np.argwhere(x)


@op("one_hot")
def one_hot(
    indices: Array, one_hot_vector_size: Any, axis: Any = -1, on_value: Any = 1, off_value: Any = 0
) -> Array:
    """Vectors with ``on_value`` at the index, along a new axis; an index out of range gives none."""
    along = int(axis) % (indices.ndim + 1)
    shape = [1] * (indices.ndim + 1)
    shape[along] = -1
    positions = np.arange(int(one_hot_vector_size)).reshape(shape)
    return np.where(np.expand_dims(indices, along) == positions, on_value, off_value)


@op("pad", moves=True)
def pad(x: Array, pad: Array, mode: str = "constant", constant_val: Any = 0.0) -> Array:
    """Pad the last dimensions; ``pad`` holds (before, after) of each."""
    pairs = pad.reshape(-1, 2).tolist()
    width = [(0, 0)] * (x.ndim - len(pairs)) + [(int(before), int(after)) for before, after in pairs]
    if mode == "constant":
        return np.pad(x, width, constant_values=constant_val)
    if mode == "reflect":
        return np.pad(x, width, mode="reflect")
    if mode == "replicate":
        return np.pad(x, width, mode="edge")
    raise InterpreterError(f"pad has no mode {mode!r}")


@op("range_1d")
def range_1d(end: Array, start: Array, step: Array) -> Array:
    """start, start + step, ... before ``end``."""
    return np.arange(start.item(), end.item(), step.item())


@op("tile", moves=True)
def tile(x: Array, reps: Array) -> Array:
    """Repeat the whole tensor along each dimension."""
    return np.tile(x, tuple(int(n) for n in reps))


def _order(x: Array, axis: int, ascending: Any) -> Array:
    """Indices that sort; equal elements keep their order."""
    keys = x.astype(np.int64) if x.dtype.kind in "iub" else x
    return np.argsort(keys if bool(ascending) else -keys, axis=axis, kind="stable")


@op("argsort")
def argsort(x: Array, axis: Any = -1, ascending: Any = False) -> Array:
    """Indices that sort along ``axis``."""
    return _order(x, int(axis), ascending)


@op("topk")
def topk(
    x: Array,
    k: Any = 1,
    axis: Any = -1,
    ascending: Any = False,
    sort: Any = True,
    return_indices: Any = True,
    output_indices_dtype: str = "int32",
) -> Array | tuple[Array, Array]:
    """The k largest (smallest if ``ascending``) along ``axis``, in order; all of them if k is -1."""
    along = int(axis)
    count = x.shape[along] if int(k) == -1 else int(k)
    indices = np.take(_order(x, along, ascending), np.arange(count), along)
    values = np.take_along_axis(x, indices, along)
    return (values, indices) if bool(return_indices) else values


@op("flatten2d", moves=True)
def flatten2d(x: Array, axis: Any = 1) -> Array:
    """Dimensions before ``axis`` in one, the rest in another."""
    return x.reshape(int(np.prod(x.shape[: int(axis)])), int(np.prod(x.shape[int(axis) :])))


@op("shape")
def shape(x: Array) -> Array:
    """Sizes of x."""
    return np.asarray(x.shape, np.int32)


@op("concat", moves=True)
def concat(values: list[Array], axis: Any, interleave: Any = False) -> Array:
    """Join along an axis, alternating elements if ``interleave``; scalars make a vector."""
    if values[0].ndim == 0:
        return np.stack(values)
    along = int(axis) % values[0].ndim
    if not bool(interleave):
        return np.concatenate(values, along)
    shape = list(values[0].shape)
    shape[along] *= len(values)
    return np.stack(values, along + 1).reshape(shape)


@op("split", moves=True)
def split(x: Array, axis: Any, num_splits: Any = None, split_sizes: Array | None = None) -> tuple[Array, ...]:
    """Cut along an axis into equal parts, or into parts of given sizes."""
    where: Any = int(num_splits) if split_sizes is None else np.cumsum(split_sizes)[:-1].astype(np.int64)
    return tuple(np.split(x, where, int(axis)))


@op("stack", moves=True)
def stack(values: list[Array], axis: Any) -> Array:
    """Join along a new axis."""
    return np.stack(values, int(axis))


@op("identity", moves=True)
def identity(x: Any) -> Any:
    """x."""
    return x


@op("non_maximum_suppression")
def non_maximum_suppression(
    boxes: Array,
    scores: Array,
    iou_threshold: Any,
    max_boxes: Any,
    score_threshold: Any = None,
    per_class_suppression: Any = False,
) -> tuple[Array, ...]:
    """Greedy suppression of boxes (x, y, width, height) that overlap a better one by more than the threshold.

    Up to iOS16 boxes are [n, B, 4], and the number selected is a fourth output; from iOS17 they are [n, 4,
    B]. Results are padded with zeros, indices with -1. If no score passes, the best box is selected all the
    same.
    """
    is_old = score_threshold is not None
    boxes, scores = np.asarray(boxes), np.asarray(scores)  # which are selected has no gradient
    each_boxes, each_scores = (boxes, scores) if is_old else (boxes.swapaxes(1, 2), scores.swapaxes(1, 2))
    limit, count = int(max_boxes), len(boxes)
    out_boxes = np.zeros((count, limit, 4), np.float32)
    out_scores = np.zeros((count, limit, each_scores.shape[2]), np.float32)
    out_indices = np.full((count, limit), -1, np.int32)
    selected = np.zeros(count, np.int32)
    for i, (box, score) in enumerate(zip(each_boxes, each_scores, strict=True)):
        lowest = float(score_threshold) if is_old else -np.inf
        keep = _select(box, score, float(iou_threshold), lowest, limit, bool(per_class_suppression))
        n = len(keep)
        out_boxes[i, :n], out_scores[i, :n], out_indices[i, :n], selected[i] = box[keep], score[keep], keep, n
    if is_old:
        return out_boxes, out_scores, out_indices, selected
    return out_boxes.swapaxes(1, 2), out_scores.swapaxes(1, 2), out_indices


def _select(
    boxes: Array, scores: Array, iou_threshold: float, score_threshold: float, limit: int, per_class: bool
) -> list[int]:
    best, label = scores.max(axis=1), scores.argmax(axis=1)
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    area = boxes[:, 2] * boxes[:, 3]
    keep: list[int] = []
    for candidate in np.argsort(-best, kind="stable"):
        if len(keep) == limit or best[candidate] < score_threshold:
            break
        rivals = [k for k in keep if not per_class or label[k] == label[candidate]]
        overlap = np.minimum(high[rivals], high[candidate]) - np.maximum(low[rivals], low[candidate])
        shared = np.prod(np.maximum(overlap, 0), axis=1)
        union = area[rivals] + area[candidate] - shared
        iou = np.where(union > 0, shared / np.where(union > 0, union, 1), 0)
        if not np.any(iou > iou_threshold):
            keep.append(int(candidate))
    return keep or [int(np.argmax(best))]
