"""Sampling images at arbitrary points: affine, resample and crop_resize."""

from typing import Any

import numpy as np

from milpasses.interpreter.registry import Array, InterpreterError, op


def _reflect(points: Array, low: float, high: float) -> Array:
    """Fold points into [low, high] by reflection at both ends."""
    span = high - low
    if span <= 0:
        return np.zeros_like(points)
    offset = np.mod(points - low, 2 * span)
    return low + np.where(offset > span, 2 * span - offset, offset)


def _fold(points: Array, size: int, padding: str) -> Array:
    """Bring points outside the image inside, as the padding mode says; ``constant`` leaves them."""
    if padding == "border":
        return np.clip(points, 0, size - 1)
    if padding == "reflection":
        return np.clip(_reflect(points, 0, size - 1), 0, size - 1)
    if padding == "symmetric":
        return np.clip(_reflect(points, -0.5, size - 0.5), 0, size - 1)
    return points


def _pixels(image: Array, row: Array, column: Array, outside: float) -> Array:
    """image [C, H, W] at integer positions; ``outside`` beyond the border."""
    height, width = image.shape[1:]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    nearest = image[:, np.clip(row, 0, height - 1), np.clip(column, 0, width - 1)]
    return np.where(inside, nearest, np.float32(outside))


def _bilinear(image: Array, y: Array, x: Array, outside: float) -> Array:
    top, left = np.floor(y), np.floor(x)
    dy, dx = (y - top).astype(np.float32), (x - left).astype(np.float32)
    row, column = top.astype(np.int64), left.astype(np.int64)
    upper = _pixels(image, row, column, outside) * (1 - dx) + _pixels(image, row, column + 1, outside) * dx
    lower = (
        _pixels(image, row + 1, column, outside) * (1 - dx)
        + _pixels(image, row + 1, column + 1, outside) * dx
    )
    return upper * (1 - dy) + lower * dy


def _to_pixels(points: Array, size: int, mode: str, align_corners: bool) -> Array:
    """Coordinates of one axis in pixels, the centre of the first pixel being 0."""
    points = points.astype(np.float64)
    if mode == "unnormalized":
        return points
    unit = (points + 1) / 2 if mode == "normalized_minus_one_to_one" else points
    return unit * (size - 1) if align_corners else unit * size - 0.5


@op("resample")
def resample(
    x: Array,
    coordinates: Array,
    sampling_mode: str,
    padding_mode: str,
    padding_value: Any,
    coordinates_mode: str,
    align_corners: Any,
) -> Array:
    """x [B, C, H, W] at coordinates [B, H2, W2, (x, y)]."""
    align, height, width = bool(align_corners), x.shape[2], x.shape[3]
    columns = _to_pixels(coordinates[..., 0], width, coordinates_mode, align)
    rows = _to_pixels(coordinates[..., 1], height, coordinates_mode, align)
    columns, rows = _fold(columns, width, padding_mode), _fold(rows, height, padding_mode)
    outside = float(padding_value)
    if sampling_mode == "bilinear":
        return np.stack([_bilinear(*part, outside) for part in zip(x, rows, columns, strict=True)])
    near = [
        (i, np.rint(r).astype(np.int64), np.rint(c).astype(np.int64))
        for i, r, c in zip(x, rows, columns, strict=True)
    ]
    return np.stack([_pixels(*part, outside) for part in near])


@op("affine")
def affine(
    x: Array,
    transform_matrix: Array,
    output_height: Any,
    output_width: Any,
    **sampling: Any,
) -> Array:
    """Sample x [B, C, H, W] at an affine map of the output grid, both in [-1, 1].

    ``sampling``: the parameters of ``resample``, the modes in any case.
    """
    height, width = int(output_height), int(output_width)
    grid_y, grid_x = np.meshgrid(_unit_grid(height), _unit_grid(width), indexing="ij")
    matrices = np.broadcast_to(transform_matrix, (x.shape[0], 6)).astype(np.float64)
    a, b = matrices[:, :3, None, None], matrices[:, 3:, None, None]
    coordinates = np.stack(
        [a[:, 0] * grid_x + a[:, 1] * grid_y + a[:, 2], b[:, 0] * grid_x + b[:, 1] * grid_y + b[:, 2]],
        axis=-1,
    )
    options = {name: value.lower() if isinstance(value, str) else value for name, value in sampling.items()}
    return resample(x, coordinates, **options)


def _unit_grid(size: int) -> Array:
    return np.linspace(-1.0, 1.0, size) if size > 1 else np.zeros(1)


def _crop_points(start: float, end: float, target: int, mode: str) -> Array:
    """Sample points of one axis of a box, in pixels; the modes are those of resize_bilinear."""
    index = np.arange(target, dtype=np.float64)
    length = end - start
    if mode in ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"):
        if target == 1:
            return np.full(1, (start + end) / 2 if mode == "ALIGN_CORNERS" else start)
        return start + index * length / (target - 1)
    if mode == "UNALIGN_CORNERS":
        extent = length + 1
        return start + (index + 0.5) * extent / target - 0.5
    if mode == "DEFAULT":
        return start + index * (length + 1) / target
    if mode == "OFFSET_CORNERS":
        delta = length / target
        return start + (index + 0.5) * delta
    raise InterpreterError(f"no sampling mode {mode!r}")


def _corners(box: Array, mode: str) -> tuple[float, float, float, float]:
    """(top, left, bottom, right) of a box in any of the four conventions."""
    first, second, third, fourth = (float(v) for v in box)
    if mode.endswith("WIDTH_FIRST"):
        first, second, third, fourth = second, first, fourth, third
    if mode.startswith("CENTER_SIZE"):
        return first - third / 2, second - fourth / 2, first + third / 2, second + fourth / 2
    return first, second, third, fourth


@op("crop_resize")
def crop_resize(
    x: Array,
    roi: Array | None = None,
    boxes: Array | None = None,
    box_indices: Array | None = None,
    target_height: Any = 1,
    target_width: Any = 1,
    normalized_coordinates: Any = False,
    spatial_scale: Any = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: Any = 0.0,
) -> Array:
    """Cut boxes out of images [B, C, H, W] and resize each bilinearly.

    Up to iOS16 ``roi`` is [N, 1, 4 or 5, 1, 1], 5 with the image's index first, and the result
    [N, B or 1, C, h, w]; from iOS17 ``boxes`` is [N, 4] with ``box_indices``, and the result [N, C, h, w].
    """
    height, width = x.shape[2:]
    scale = float(spatial_scale)

    def cut(image: Array, box: Array) -> Array:
        top, left, bottom, right = (v * scale for v in _corners(box, box_coordinate_mode))
        if bool(normalized_coordinates):
            top, bottom, left, right = (
                top * (height - 1),
                bottom * (height - 1),
                left * (width - 1),
                right * (width - 1),
            )
        rows = _crop_points(top, bottom, int(target_height), sampling_mode)
        columns = _crop_points(left, right, int(target_width), sampling_mode)
        outside = (rows < 0) | (rows > height - 1)
        beyond = outside[:, None] | ((columns < 0) | (columns > width - 1))[None]
        grid = np.meshgrid(np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1), indexing="ij")
        return np.where(beyond, np.float32(pad_value), _bilinear(image, grid[0], grid[1], 0.0))

    if boxes is not None:
        owners = range(len(boxes)) if box_indices is None else [int(i) for i in box_indices]
        return np.stack([cut(x[owner], box) for owner, box in zip(owners, boxes, strict=True)])
    assert roi is not None
    flat = roi.reshape(roi.shape[0], -1)
    if flat.shape[1] == 5:
        return np.stack([cut(x[int(box[0])], box[1:])[None] for box in flat])
    return np.stack([np.stack([cut(image, box) for image in x]) for box in flat])
