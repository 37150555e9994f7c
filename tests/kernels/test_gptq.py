"""Error feedback, descent and refit against the textbook, on grids, tables, vectors and masks."""

import naive
import naive_gptq
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from milpasses_kernels import _gptq_factor, _gptq_refit, gptq
from milpasses_kernels._gptq_grids import NO_MASK
from milpasses_kernels.gptq import AffineGrid, FloatGrid, NotPositive, TableGrid, VectorGrid
from threadpoolctl import threadpool_info, threadpool_limits

DAMPING = 0.01
CLEAR = 2e-4  # a target this far from where its rounding changes rounds alike in float32


def inputs(rng, rows, width, rank=None):
    """Correlated rows, of a few directions where ``rank`` says so."""
    mixing = rng.normal(size=(rank or width, width)) / np.sqrt(rank or width) + np.eye(rank or width, width)
    return rng.normal(size=(rows, len(mixing))) @ mixing


def second_moment(rng, width, rank=None):
    x = inputs(rng, 4 * width, width, rank)
    return x.T @ x / len(x)


def weights_of(rng, rows, width):
    return rng.normal(0, 1, (rows, width)).astype(np.float16).astype(np.float32)


def affine(rng, rows, width, block=0, half=True):
    """4-bit grids for blocks of ``block`` columns, or for rows."""
    blocks = width // block if block else 1
    scale = rng.uniform(0.2, 0.5, rows * blocks).astype(np.float16).astype(np.float32)
    low = rng.integers(-8, -3, scale.size).astype(np.float32)
    columns = np.arange(width) // (block or width)
    return AffineGrid(scale, low, low + 15, np.arange(rows) * blocks, columns, half)


def tables(rng, rows, width, entries=4, group=1, half=True):
    """A table for each ``group`` rows."""
    values = np.sort(rng.normal(0, 1.2, (rows // group, entries)), axis=1)
    values = values.astype(np.float16).astype(np.float32)
    return TableGrid(values, np.arange(rows) // group, np.zeros(width, np.int64), half)


def rounding_of(grid):
    """The rounding of ``grid`` for the oracle, with how clear each answer is."""

    def to_grid(r, j, value):
        number = grid.rows[r] + grid.columns[j]
        scale, low, high = (float(part[number]) for part in grid[:3])
        k = min(max(np.rint(value / scale), low), high)
        inside = abs(abs(value / scale - np.floor(value / scale)) - 0.5) * scale
        decoded = np.float16(k * scale) if grid.half else k * scale
        return float(decoded), inside if low <= value / scale <= high else np.inf

    def to_table(r, j, value):
        table = grid.tables[grid.rows[r] + grid.columns[j]].astype(np.float64)
        middles = (table[1:] + table[:-1]) / 2
        return table[np.abs(value - table).argmin()], float(np.abs(value - middles).min())

    return to_grid if isinstance(grid, AffineGrid) else to_table


def decode(grid, codes):
    numbers = grid.rows[:, None] + grid.columns
    if isinstance(grid, AffineGrid):
        decoded = grid.scale[numbers] * codes
        return decoded.astype(np.float16).astype(np.float32) if grid.half else decoded
    return grid.tables[numbers, codes]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([1, 3, 8]), st.sampled_from([5, 32, 140]), st.booleans())
def test_rounds_as_the_textbook_does(seed: int, rows: int, width: int, by_table: bool) -> None:
    rng = np.random.default_rng(seed)
    gram, weights = second_moment(rng, width), weights_of(rng, rows, width)
    grid = tables(rng, rows, width) if by_table else affine(rng, rows, width)
    expected, margins = naive_gptq.gptq(weights, gram, DAMPING, rounding_of(grid))
    found = gptq.reround(weights, gptq.prepare(gram, DAMPING), grid, descents=0)
    clear = margins > CLEAR
    np.testing.assert_allclose(found.errors[clear], expected[clear], atol=1e-6)
    decoded = decode(found.grid, found.codes)
    np.testing.assert_allclose(weights - decoded, found.errors, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([2, 6]), st.sampled_from([7, 132]))
def test_descends_as_the_textbook_does(seed: int, rows: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    gram, weights, grid = second_moment(rng, width), weights_of(rng, rows, width), tables(rng, rows, width)
    feedback = gptq.prepare(gram, DAMPING)
    start = gptq.reround(weights, feedback, grid, descents=0)
    expected, margins = naive_gptq.descend(weights, start.errors, gram, DAMPING, rounding_of(grid))
    found = gptq.reround(weights, feedback, grid, descents=1, refitted=False)
    clear = margins > CLEAR
    np.testing.assert_allclose(found.errors[clear], expected[clear], atol=1e-6)
    order, hessian = naive_gptq.damped(gram, DAMPING)
    before, after = (naive_gptq.output_error(e.errors[:, order], hessian) for e in (start, found))
    assert after <= before * (1 + 1e-5)


def test_blocks_of_columns_have_their_own_grids() -> None:
    rng = np.random.default_rng(1)
    gram, weights, grid = second_moment(rng, 64), weights_of(rng, 6, 64), affine(rng, 6, 64, block=16)
    expected, margins = naive_gptq.gptq(weights, gram, DAMPING, rounding_of(grid))
    found = gptq.reround(weights, gptq.prepare(gram, DAMPING), grid, descents=0)
    assert (margins > CLEAR).sum() >= 3
    np.testing.assert_allclose(found.errors[margins > CLEAR], expected[margins > CLEAR], atol=1e-6)


def test_a_mask_holds_and_the_rest_makes_up_for_it() -> None:
    rng = np.random.default_rng(2)
    gram, weights, grid = second_moment(rng, 48), weights_of(rng, 5, 48), tables(rng, 5, 48, 16)
    mask = (rng.random(weights.shape) < 0.5).astype(np.uint8)
    expected, margins = naive_gptq.gptq(weights, gram, DAMPING, rounding_of(grid), mask)
    found = gptq.reround(weights, gptq.prepare(gram, DAMPING), grid, mask, descents=0)
    clear = margins > CLEAR
    assert clear.any()
    np.testing.assert_allclose(found.errors[clear], expected[clear], atol=1e-6)
    np.testing.assert_array_equal((weights - found.errors)[mask == 0], 0)
    kept = gptq.reround(weights, gptq.prepare(gram, DAMPING), FloatGrid(half=True), mask, descents=4)
    decoded = weights - kept.errors
    np.testing.assert_array_equal(decoded[mask == 0], 0)
    pruned = np.where(mask, 0, weights)
    assert naive_gptq.output_error(kept.errors, gram) < 0.7 * naive_gptq.output_error(pruned, gram)


def test_one_dimensional_vectors_are_scalars() -> None:
    rng = np.random.default_rng(3)
    gram, weights, grid = second_moment(rng, 40), weights_of(rng, 8, 40), tables(rng, 8, 40, 8, group=8)
    vectors = VectorGrid(grid.tables[..., None].copy(), grid.rows, grid.columns, True)
    feedback = gptq.prepare(gram)
    scalars = gptq.reround(weights, feedback, grid, descents=2, refitted=False)
    found = gptq.reround(weights, feedback, vectors, descents=2, refitted=False)
    np.testing.assert_array_equal(found.codes, scalars.codes)


def test_vectors_take_the_nearest_and_share_a_code() -> None:
    rng = np.random.default_rng(4)
    gram, weights = second_moment(rng, 24), weights_of(rng, 6, 24)
    entries = rng.normal(0, 1, (1, 16, 2)).astype(np.float16).astype(np.float32)
    grid = VectorGrid(entries, np.zeros(6, np.int64), np.zeros(24, np.int64), True)
    found = gptq.reround(weights, gptq.prepare(gram), grid)
    np.testing.assert_array_equal(found.codes[0::2], found.codes[1::2])
    assert isinstance(found.grid, VectorGrid)
    decoded = found.grid.tables[0][found.codes[0::2]].transpose(0, 2, 1).reshape(6, 24)
    np.testing.assert_allclose(weights - decoded, found.errors, atol=1e-5)
    nearest = ((weights.reshape(3, 2, 24)[:, :, :, None] - entries[0].T[:, None]) ** 2).sum(1).argmin(-1)
    plain = weights - entries[0][nearest].transpose(0, 2, 1).reshape(6, 24)
    assert naive_gptq.output_error(found.errors, gram) < naive_gptq.output_error(plain, gram)
    with pytest.raises(ValueError, match="mask over vectors"):
        gptq.reround(weights, gptq.prepare(gram), grid, np.ones((6, 24), np.uint8))


@pytest.mark.parametrize("kind", ["affine", "table"])
def test_refit_comes_near_the_least_squares(kind: str) -> None:
    rng = np.random.default_rng(5)
    gram, weights = second_moment(rng, 32), weights_of(rng, 4, 32)
    if kind == "affine":
        grid = affine(rng, 4, 32, half=False)
        codes = np.clip(np.rint(weights / grid.scale[:, None]), grid.low[:, None], grid.high[:, None])
        design = np.zeros((4, 32, 4))
        design[np.arange(4), :, np.arange(4)] = codes
    else:
        grid = tables(rng, 4, 32, 8, group=2, half=False)
        entries = grid.tables[grid.rows]
        codes = np.abs(weights[..., None] - entries[:, None]).argmin(-1)
        design = np.zeros((4, 32, 16))
        np.put_along_axis(design, (grid.rows[:, None] * 8 + codes)[..., None], 1.0, axis=2)
    codes = codes.astype(np.int16)
    errors = (weights - decode(grid, codes)).astype(np.float32)
    found = _gptq_refit.refit(weights, errors, gram.astype(np.float32), grid, codes, NO_MASK)
    assert found is not None
    least = naive_gptq.fitted(weights, design.reshape(128, -1), gram)
    before, after = naive_gptq.output_error(errors, gram), naive_gptq.output_error(found[1], gram)
    assert least <= after * 1.0001
    assert after - least < 0.1 * (before - least)
    np.testing.assert_allclose(weights - decode(found[0], codes), found[1], atol=1e-5)


def test_dead_inputs_and_few_samples_still_round() -> None:
    rng = np.random.default_rng(6)
    x = inputs(rng, 9, 40)
    x[:, [3, 17]] = 0
    gram, weights, grid = x.T @ x / 9, weights_of(rng, 4, 40), affine(rng, 4, 40)
    feedback = gptq.prepare(gram)
    found = gptq.reround(weights, feedback, grid, refitted=False)
    plain = gptq.reround(weights, gptq.prepare(np.eye(40)), grid, descents=0)
    np.testing.assert_allclose(found.errors[:, [3, 17]], plain.errors[:, [3, 17]], atol=1e-6)
    assert naive_gptq.output_error(found.errors, gram) < 0.2 * naive_gptq.output_error(plain.errors, gram)


def test_damping_grows_until_the_factorization_works() -> None:
    gram = np.diag([4.0, 1.0, 1.0])
    gram[1, 2] = gram[2, 1] = 1.2  # indefinite: -0.2
    assert gptq.prepare(gram, 0.01).damping == pytest.approx(0.1)
    assert gptq.prepare(np.eye(3), 0.0).damping == 0.0


@pytest.mark.parametrize(
    ("gram", "message"),
    [
        (np.zeros((3, 3)), "zero"),
        (np.full((3, 3), np.nan), "NaN"),
        (np.diag([5.0, -4.0, 1.0]), "not positive"),
    ],
)
def test_no_second_moment(gram: np.ndarray, message: str) -> None:
    with pytest.raises(NotPositive, match=message) as caught:
        gptq.prepare(gram)
    causes = {"zero": ("zero", None), "NaN": ("nonfinite", None), "not positive": ("indefinite", 1.0)}
    assert (caught.value.cause, caught.value.damping) == causes[message]


def test_shapes_are_checked() -> None:
    with pytest.raises(ValueError, match=r"\(K, K\)"):
        gptq.prepare(np.zeros((2, 3)))
    grid = tables(np.random.default_rng(0), 2, 4)
    with pytest.raises(ValueError, match="do not fit 3 inputs"):
        gptq.reround(np.zeros((2, 4), np.float32), gptq.prepare(np.eye(3)), grid)


def test_output_error_and_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(7)
    gram, weights, grid = second_moment(rng, 30), weights_of(rng, 600, 30), tables(rng, 600, 30)
    errors = weights_of(rng, 600, 30)
    assert gptq.output_error(errors, gram) == pytest.approx(naive_gptq.output_error(errors, gram), rel=1e-5)
    answers = []
    for threads, blas in (("1", 1), ("3", 1), ("1", 2), ("3", 2)):
        monkeypatch.setenv("MILPASSES_NUM_THREADS", threads)
        with threadpool_limits(blas, user_api="blas"):
            found = gptq.reround(weights, gptq.prepare(gram), grid)
            answers.append((found, gptq.output_error(found.errors, gram)))
    first, least = answers[0]
    for other, error in answers[1:]:
        np.testing.assert_array_equal(first.codes, other.codes)
        np.testing.assert_array_equal(first.errors, other.errors)
        assert error == least


def test_blas_has_one_thread_where_ours_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    matmul = np.matmul

    def watch(*arguments: np.ndarray, out: np.ndarray) -> np.ndarray:
        seen.update(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")
        return matmul(*arguments, out=out)

    rng = np.random.default_rng(7)
    gram, weights, grid = second_moment(rng, 30), weights_of(rng, 600, 30), tables(rng, 600, 30)
    monkeypatch.setattr(np, "matmul", watch)
    monkeypatch.setenv("MILPASSES_NUM_THREADS", "2")
    with threadpool_limits(2, user_api="blas"):
        gptq.reround(weights, gptq.prepare(gram), grid)
    assert seen <= {1}  # empty where threadpoolctl does not know the BLAS


def test_scales_stay_where_float16_holds_the_codes() -> None:
    scale = np.array([0.5, 4000.0], np.float32)
    grid = AffineGrid(
        scale, np.full(2, -8, np.float32), np.full(2, 7, np.float32), np.arange(2), np.zeros(1), True
    )
    changed = grid.with_values(np.array([-1.0, 9000.0]))
    np.testing.assert_array_equal(changed.scale, scale)  # no negative scale, none that decodes to infinity
    assert grid.with_values(np.array([0.25, 8000.0])).scale.tolist() == [0.25, 8000.0]


@pytest.mark.parametrize("refused", [False, True])
def test_wide_moments_are_factored_in_single_precision_and_in_double_where_that_fails(monkeypatch, refused):
    rng = np.random.default_rng(5)
    width = naive.few(600, 70)
    monkeypatch.setattr(_gptq_factor, "_BLOCK", width // 4)  # blocks of all sizes, the last one short
    rows = rng.normal(size=(width // 3, width)) * rng.lognormal(0, 2, width)  # fewer rows than inputs
    rows[:, 3] = 0
    gram = rows.T @ rows
    double = gptq.prepare(gram, DAMPING)
    monkeypatch.setattr(_gptq_factor, "_WIDE", width - 1)
    asked = []

    def single(matrix):
        asked.append(matrix.dtype)
        if refused:
            raise np.linalg.LinAlgError
        return factor(matrix)

    factor = _gptq_factor._single_cholesky
    monkeypatch.setattr(_gptq_factor, "_single_cholesky", single)
    found = gptq.prepare(gram, DAMPING)
    assert asked == [np.float32]
    assert found.damping == double.damping
    np.testing.assert_array_equal(found.order, double.order)
    np.testing.assert_allclose(
        found.upper, double.upper, atol=0 if refused else 1e-4 * abs(double.upper).max()
    )
    np.testing.assert_array_equal(np.tril(found.upper), 0)
    np.testing.assert_allclose(found.hessian, double.hessian, rtol=0 if refused else 1e-6, atol=1e-6)


def test_no_moment_with_a_negative_direction_is_factored_in_single_precision(monkeypatch):
    monkeypatch.setattr(_gptq_factor, "_WIDE", 7)
    gram = np.diag([*np.full(7, 1.0), -0.5])
    assert gptq.prepare(gram, DAMPING).damping == 1.0  # as in double precision
    with pytest.raises(NotPositive):
        gptq.prepare(np.diag([*np.full(7, 1.0), -3.0]), DAMPING)


def test_the_error_around_the_mean_is_that_of_centred_inputs():
    rng = np.random.default_rng(6)
    rows = inputs(rng, 400, 40) + 5
    errors = rng.normal(0, 0.1, (9, 40)).astype(np.float32)
    expected = (((rows - rows.mean(0)) @ errors.T) ** 2).sum()
    found = gptq.output_error(errors, rows.T @ rows, rows.sum(0), rows.mean(0))
    assert found == pytest.approx(expected, rel=1e-4)
