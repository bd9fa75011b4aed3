"""k-means, additive codes and rotations: by hand, by brute force, and against scikit-learn, scipy and torch."""

import itertools

import pytest
import torch

from vocabpress.fitting.codes import beam_search, decode, refit, residual_kmeans
from vocabpress.fitting.kmeans import kmeans, nearest_words, pick
from vocabpress.fitting.rotation import block_variances, deal_axes, gaussian_distortion, procrustes


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_kmeans_by_hand():
    # Two heaps on a line in one segment, the same four points the other way round in the other.
    line = torch.tensor([0.0, 1.0, 10.0, 12.0])
    points = torch.stack([line, line.flip(0)])[..., None]
    words = kmeans(points, torch.ones(4), 2, 5, generator()).sort(1).values
    torch.testing.assert_close(words, torch.tensor([[[0.5], [11.0]], [[0.5], [11.0]]]))
    # Weights draw a mean to the heavy points; a point without weight draws nothing.
    words = kmeans(points[:1], torch.tensor([3.0, 1.0, 1.0, 0.0]), 2, 5, generator()).sort(1).values
    torch.testing.assert_close(words, torch.tensor([[[0.25], [10.0]]]))


def test_a_word_without_points_moves_to_where_it_is_needed():
    points = torch.cat([torch.zeros(50, 2), torch.eye(2) * 9 + torch.randn(2, 2) * 0.01])[None]
    start = torch.zeros(1, 4, 2)
    words = kmeans(points, torch.ones(52), 4, 3, generator(), start)
    assert float((points - pick(words, nearest_words(points, words))).square().sum()) < 1e-6


def test_more_words_than_points_are_no_harm():
    points = torch.randn(2, 5, 3)
    words = kmeans(points, torch.ones(5), 16, 4, generator())
    assert words.shape == (2, 16, 3)
    torch.testing.assert_close(pick(words, nearest_words(points, words)), points)


def test_nearest_is_brute_force_and_crosses_chunks(monkeypatch):
    points, words = torch.randn(3, 100, 4), torch.randn(3, 7, 4)
    expected = torch.cdist(points, words).argmin(-1)
    assert torch.equal(nearest_words(points, words), expected)
    monkeypatch.setattr("vocabpress.fitting.kmeans.SCORES_PER_CHUNK", 40)
    assert torch.equal(nearest_words(points, words), expected)


@pytest.mark.parametrize("weighted", [False, True])
def test_kmeans_is_as_good_as_scikit_learns(weighted):
    cluster = pytest.importorskip("sklearn.cluster")
    points = torch.randn(3000, 3) * torch.tensor([3.0, 1.0, 0.5])
    weights = torch.rand(3000) ** 4 + 0.01 if weighted else torch.ones(3000)
    words = kmeans(points[None], weights, 32, 25, generator())
    ours = float(weights @ (points - pick(words, nearest_words(points[None], words))[0]).square().sum(1))
    theirs = cluster.KMeans(32, n_init=1, max_iter=25, random_state=0).fit(
        points.numpy(), sample_weight=weights.numpy()
    )
    assert ours < 1.03 * theirs.inertia_


def all_sums(books):
    """Every code, and the sum that it stands for."""
    codes = torch.tensor(list(itertools.product(range(books.shape[1]), repeat=len(books))))
    return codes, sum(book[codes[:, stage]] for stage, book in enumerate(books))


def test_beam_search_as_wide_as_all_beginnings_is_brute_force():
    books, targets = torch.randn(4, 3, 5), torch.randn(300, 5) * 2
    codes, sums = all_sums(books)
    optimum = codes[torch.cdist(targets, sums).argmin(1)]
    assert torch.equal(beam_search(targets, books, 27), optimum)
    torch.testing.assert_close(decode(codes, books), sums)


def test_a_wider_beam_errs_less_and_one_is_greedy(monkeypatch):
    books, targets = torch.randn(6, 8, 4), torch.randn(2000, 4) * 3
    errors = []
    for width in (1, 4, 16):
        found = beam_search(targets, books, width)
        errors.append(float((targets - decode(found, books)).square().sum()))
    assert errors[0] > 1.1 * errors[1] > 1.1 * errors[2]
    left, greedy = targets, []
    for book in books:
        greedy.append(nearest_words(left[None], book[None])[0])
        left = left - book[greedy[-1]]
    assert torch.equal(beam_search(targets, books, 1), torch.stack(greedy, 1))
    monkeypatch.setattr("vocabpress.fitting.codes.FLOATS_PER_CHUNK", 1000)
    assert torch.equal(beam_search(targets, books, 1), torch.stack(greedy, 1))


def test_refitted_books_are_torchs_weighted_least_squares():
    codes = torch.randint(0, 4, (500, 3), generator=generator())
    targets, weights = torch.randn(500, 6), torch.rand(500) + 0.1
    features = torch.nn.functional.one_hot(codes, 4).flatten(1).double()
    root = weights.double().sqrt()[:, None]
    expected = torch.linalg.lstsq(features * root, targets * root, driver="gelsd").solution  # of less than full rank
    books = refit(targets, codes, torch.randn(3, 4, 6), weights, penalty=1e-9)
    torch.testing.assert_close(decode(codes, books).double(), features @ expected, rtol=1e-4, atol=1e-4)


def test_a_word_that_no_code_names_stays():
    codes = torch.randint(0, 3, (200, 2), generator=generator())
    books = torch.randn(2, 4, 5)
    refitted = refit(torch.randn(200, 5), codes, books, torch.ones(200))
    torch.testing.assert_close(refitted[:, 3], books[:, 3])
    assert not torch.allclose(refitted[:, :3], books[:, :3])


def test_rounds_of_both_steps_reach_less_than_residual_kmeans():
    targets, weights = torch.randn(2000, 8), torch.rand(2000) + 0.1
    books = residual_kmeans(targets[None], weights, 4, 8, 8, generator())[0]

    def error(codes):
        return float(weights @ (targets - decode(codes, books)).square().sum(1))

    start = error(beam_search(targets, books, 1))
    for _ in range(4):
        codes = beam_search(targets, books, 4)
        before = error(codes)
        books = refit(targets, codes, books, weights)
        assert error(codes) <= before
    assert error(codes) < 0.9 * start


def test_axes_are_dealt_out_so_that_products_balance():
    # 16 | 8, then 4 to the second (8 < 16), 2 to the first (16 < 32), 1 to either; 16 * 2 = 8 * 4.
    order = deal_axes(torch.tensor([16.0, 8.0, 4.0, 2.0]), 2, 2)
    assert order.tolist() == [0, 3, 1, 2]
    assert sorted(deal_axes(torch.tensor([5.0, 4.0, 0.0, 0.0, 0.0]), 2, 2).tolist()) == [0, 1, 2, 3]
    assert deal_axes(torch.zeros(4), 1, 3).tolist() == [0, 1, 2]


def test_procrustes_undoes_a_rotation_and_is_scipys():
    turn = torch.linalg.qr(torch.randn(6, 6)).Q
    rows = torch.randn(100, 6)
    torch.testing.assert_close(procrustes(rows, rows @ turn.T, torch.ones(100)), turn, rtol=1e-4, atol=1e-5)
    linalg = pytest.importorskip("scipy.linalg")
    targets, weights = torch.randn(100, 6), torch.rand(100)
    root = weights.sqrt()[:, None]
    expected, _ = linalg.orthogonal_procrustes((targets * root).numpy(), (rows * root).numpy())
    torch.testing.assert_close(procrustes(rows, targets, weights), torch.from_numpy(expected), rtol=1e-3, atol=1e-4)
    axes = procrustes(rows, targets[:, :4], weights)
    torch.testing.assert_close(axes @ axes.T, torch.eye(4), rtol=1e-5, atol=1e-5)


def test_the_gaussian_bound_by_hand():
    variances = torch.tensor([[1.0, 4.0], [1.0, 0.25]])
    # Two bits: level sqrt(4 * 1 / 16) = 1/2 on both axes of the first segment, sqrt(1/4 / 16) = 1/8 on the second's.
    torch.testing.assert_close(gaussian_distortion(variances, 2.0), torch.tensor([1.0, 0.25]))
    # One bit for all four: it pays on the first axis alone, down to 4 / 4.
    torch.testing.assert_close(gaussian_distortion(variances.view(1, 4), 1.0), torch.tensor([3.25]))
    turned = torch.tensor([[2.5, 1.5, 9.0, 9.0], [1.5, 2.5, 9.0, 9.0], [9.0, 9.0, 2.0, 0.0], [9.0, 9.0, 0.0, 3.0]])
    torch.testing.assert_close(block_variances(turned, 2), torch.tensor([[1.0, 4.0], [2.0, 3.0]]))
