"""Nearest Kronecker products: by hand, against torch's SVD, against restarts; and the method that uses them."""

import pytest
import torch

from cases import low_rank_table
from vocabpress import Budget, NearestKronecker, make_method
from vocabpress.fitting.kronecker import (
    KroneckerBlocks,
    check_divides,
    divisors,
    empty_kronecker,
    fit_kronecker,
    nearest_products,
)
from vocabpress.reconstruction import reconstruction


def product(left, right, rows):
    return sum(torch.kron(a, b) for a, b in zip(left, right, strict=True))[:rows]


def weighted_error(matrix, left, right, weights=None):
    squares = (product(left, right, len(matrix)) - matrix).square().sum(1)
    return float(squares.sum() if weights is None else squares @ weights)


def test_by_hand():
    # (1, 2, 2, 4) = (1, 2) (x) (1, 2) and (3, 6, 0, 0) = (3, 0) (x) (1, 2): one b of two numbers holds both rows.
    table = torch.tensor([[1.0, 2.0, 2.0, 4.0], [3.0, 6.0, 0.0, 0.0]])
    fitted = NearestKronecker(width=2).fit(table, budget=Budget.bytes(2 * (4 + 2)))
    torch.testing.assert_close(fitted.dense(), table, rtol=0, atol=4e-3)
    # Two rows at a right angle, one b: it holds the longer of the two, or the one that counts.
    table = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
    for weights, held in ((None, [[0.0, 0.0], [0.0, 4.0]]), (torch.tensor([16.0, 1.0]), [[3.0, 0.0], [0.0, 0.0]])):
        fitted = fit_kronecker(table, 1, 2, 1, "float16", weights)
        torch.testing.assert_close(fitted.dense(), torch.tensor(held), rtol=0, atol=4e-3)


@pytest.mark.parametrize("terms", [1, 2, 4])
@pytest.mark.parametrize(("rows", "width"), [(1, 6), (2, 3), (5, 12), (20, 2), (1, 24)])
def test_it_is_torchs_optimum_of_the_rearranged_matrix(rows, width, terms):
    matrix = torch.randn(40, 24, dtype=torch.float64)
    pieces = [row.split(width, dim=1) for row in matrix.split(rows)]
    rearranged = torch.stack([block.flatten() for row in pieces for block in row])
    optimum = torch.linalg.svdvals(rearranged)[terms:].square().sum()
    left, right = nearest_products(KroneckerBlocks.of(matrix, rows, width), terms)
    assert weighted_error(matrix, left, right) == pytest.approx(float(optimum), rel=1e-6)


def restart(matrix, rows, width, terms, seed):
    """Alternating least squares from random factors, by torch's own solver, an entry's equation at a time."""
    generator = torch.Generator().manual_seed(seed)
    high, wide = len(matrix) // rows, matrix.shape[1] // width
    right = torch.randn(terms, rows * width, generator=generator, dtype=matrix.dtype)
    blocks = matrix.view(high, rows, wide, width).transpose(1, 2).reshape(high * wide, rows * width)
    for _ in range(40):
        left = torch.linalg.lstsq(right.T, blocks.T).solution
        right = torch.linalg.lstsq(left.T, blocks).solution
    return float((left.T @ right - blocks).square().sum())


@pytest.mark.parametrize(("rows", "width", "terms"), [(1, 3, 1), (2, 2, 1), (2, 3, 2), (3, 2, 3)])
def test_random_restarts_never_beat_it(rows, width, terms):
    matrix = torch.randn(6, 6, dtype=torch.float64)
    left, right = nearest_products(KroneckerBlocks.of(matrix, rows, width), terms)
    error = weighted_error(matrix, left, right)
    assert min(restart(matrix, rows, width, terms, seed) for seed in range(20)) >= error * (1 - 1e-6)


def test_weights_of_whole_blocks_keep_it_an_optimum():
    matrix, block_weights = torch.randn(40, 12, dtype=torch.float64), torch.rand(10, dtype=torch.float64) * 9 + 0.1
    weights = block_weights.repeat_interleave(4)
    pieces = [row.split(3, dim=1) for row in matrix.split(4)]
    rearranged = torch.stack(
        [b.flatten() * w.sqrt() for row, w in zip(pieces, block_weights, strict=True) for b in row]
    )
    optimum = torch.linalg.svdvals(rearranged)[2:].square().sum()
    left, right = nearest_products(KroneckerBlocks.of(matrix, 4, 3, weights), 2)
    assert weighted_error(matrix, left, right, weights) == pytest.approx(float(optimum), rel=1e-6)


def best_alone(matrix, weights, shape, make):
    """The least error over one of the factors, the other fixed: ordinary least squares, a column for each number."""
    units = torch.eye(shape.numel(), dtype=matrix.dtype).unflatten(1, shape)
    root = weights.sqrt()[:, None]
    columns = torch.stack([(make(unit) * root).flatten() for unit in units], 1)
    aim = (matrix * root).flatten()
    return float((columns @ torch.linalg.lstsq(columns, aim[:, None]).solution[:, 0] - aim).square().sum())


def test_weights_inside_blocks_lower_the_error_to_where_no_factor_gains_alone():
    matrix, weights = torch.randn(24, 12, dtype=torch.float64), torch.rand(24, dtype=torch.float64) ** 4 * 9 + 0.01
    start = nearest_products(KroneckerBlocks.of(matrix, 4, 3), 2)
    left, right = nearest_products(KroneckerBlocks.of(matrix, 4, 3, weights), 2)
    error = weighted_error(matrix, left, right, weights)
    assert error < weighted_error(matrix, *start, weights) * 0.95
    assert best_alone(matrix, weights, left.shape, lambda unit: product(unit, right, 24)) > error * 0.999
    assert best_alone(matrix, weights, right.shape, lambda unit: product(left, unit, 24)) > error * 0.999


def test_rows_past_the_end_do_not_count():
    left, right = torch.randn(1, 4, 2), torch.randn(1, 3, 5)
    matrix = product(left, right, 10)  # two rows of the last block are cut off
    found = nearest_products(KroneckerBlocks.of(matrix, 3, 5), 1)
    assert weighted_error(matrix, *found) < 1e-4 * float(matrix.square().sum())
    fitted = fit_kronecker(matrix, 3, 5, 1, "float16")
    assert (fitted.num_embeddings, fitted.config()["num_embeddings"]) == (10, 10)
    torch.testing.assert_close(fitted.dense(), matrix, rtol=0, atol=0.02)


def test_a_row_without_weight_is_fitted_where_nothing_else_is_at_stake():
    matrix, weights = low_rank_table(40, 12), torch.ones(40)
    weights[:8] = 0.0  # two whole blocks of four, and for width 12 each row of blocks has numbers of its own
    left, right = nearest_products(KroneckerBlocks.of(matrix, 4, 3, weights), 1)
    of_their_own = KroneckerBlocks.of(matrix[:8], 4, 3).solve_left(right)
    torch.testing.assert_close(left[:, :2], of_their_own, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("factors", ["float16", "int8", "int4"])
def test_what_is_stored_is_what_the_empty_form_counts(factors):
    fitted = fit_kronecker(low_rank_table(101, 24), 2, 6, 3, factors)
    with torch.device("meta"):
        empty = empty_kronecker(101, 24, 2, 6, 3, factors)
    assert fitted.config() == empty.config()
    assert fitted.total_bits() == empty.total_bits()


def test_the_width_is_the_one_that_errs_least_of_those_that_fit():
    table, budget = low_rank_table(), Budget.ratio(7)
    chosen = reconstruction(table, NearestKronecker().fit(table, budget=budget)).relative_error
    others = {}
    for width in (4, 6, 8, 12, 24):
        fitted = NearestKronecker(width=width).fit(table, budget=budget)
        assert fitted.config()["right"]["embedding_dim"] == width
        others[width] = reconstruction(table, fitted).relative_error
    assert chosen == min(others.values())
    with pytest.raises(ValueError, match="the least that NearestKronecker can store"):
        NearestKronecker(width=3).fit(table, budget=budget)


def test_terms_as_many_as_fit():
    table, budget = low_rank_table(), Budget.ratio(6)
    fitted = [NearestKronecker(width=12, terms=terms).fit(table, budget=budget) for terms in (1, 2, 0)]
    assert len(fitted[2].config()["parts"]) == 3  # 8 float16 numbers a row, two a term, and some for the right factors
    one, two, most = (reconstruction(table, form).relative_error for form in fitted)
    assert one > two > most


def test_a_free_low_rank_of_as_many_numbers_a_row_never_errs_more():
    table = low_rank_table()
    for width in (4, 8):
        fitted = NearestKronecker(width=width).fit(table, budget=Budget.ratio(1))
        tail = torch.linalg.svdvals(table)[24 // width :].square().sum()
        assert float((fitted.dense().detach() - table).square().sum()) > float(tail)


def test_from_text():
    assert make_method("kronecker", width="8", terms="2", factors="int8") == NearestKronecker(8, 1, 2, "int8")


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (NearestKronecker(width=7), "7 does not divide 24, the width of the table; the nearest that does is 6 or 8"),
        (NearestKronecker(width=30), "30 does not divide 24, the width of the table; the nearest that does is 24"),
        (NearestKronecker(rows=401), "the right factor has 401 rows, the table 400; take fewer"),
    ],
)
def test_what_does_not_fit_the_table_is_refused(method, words):
    with pytest.raises(ValueError, match=words):
        method.fit(low_rank_table(), budget=Budget.ratio(4))


def test_divisors():
    assert divisors(1) == [1]
    assert divisors(36) == [1, 2, 3, 4, 6, 9, 12, 18, 36]
    check_divides(12, 36, "the width")
