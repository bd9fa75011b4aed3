"""`Scaled(Rotated(Tiles(Trellis)))`: how linear maps are stored."""

import math

import pytest
import torch

from cases import DTYPES, fill, near
from vocabpress import read_with
from vocabpress.embeddings import Dense, Projected, Rotated, Rows, Run, Scalar, Scaled, Tiles, Trellis, build, inference
from vocabpress.embeddings.caching import Reader, Resident
from vocabpress.embeddings.rotated import OF_COLUMNS, OF_ROWS, rotate, rotate_back, signs, turned
from vocabpress.embeddings.tiles import tiles_of
from vocabpress.hf.modules import CompressedLinear
from vocabpress.recover.thaw import Held, freeze, hold, thaw

LENGTHS = [1, 2, 3, 12, 53, 64, 96, 384, 1024, 1536, 2 * 1031, 1031]


def matrix_of(length, seed=5, stream=OF_ROWS):
    """Q, by the definition: entry (a b + i, c b + j) is DCT[a, c] H[i, j] times the sign of the column."""
    block = length & -length
    count = length // block
    hadamard = torch.tensor(
        [[(-1.0) ** bin(i & j).count("1") / math.sqrt(block) for j in range(block)] for i in range(block)],
        dtype=torch.float64,
    )
    cosines = torch.eye(count, dtype=torch.float64)
    if count <= 1024:
        for a in range(count):
            for c in range(count):
                scale = math.sqrt((1 if a == 0 else 2) / count)
                cosines[a, c] = scale * math.cos(math.pi * a * (2 * c + 1) / (2 * count))
    return torch.kron(cosines, hadamard) * signs(seed, stream, torch.zeros(length, dtype=torch.float64))


@pytest.mark.parametrize("length", [1, 2, 3, 12, 53, 64, 96, 384, 1031])
def test_a_rotation_is_the_matrix_of_its_definition(length):
    vectors = torch.randn(2, 3, length, dtype=torch.float64, generator=torch.Generator().manual_seed(length))
    expected = vectors @ matrix_of(length).T
    torch.testing.assert_close(rotate(vectors, 5, OF_ROWS), expected)
    torch.testing.assert_close(rotate_back(expected, 5, OF_ROWS), vectors)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
@pytest.mark.parametrize("length", LENGTHS)
def test_rotations_keep_lengths_and_dtypes_and_are_undone(length, dtype):
    vectors = torch.randn(4, length, generator=torch.Generator().manual_seed(1)).to(dtype)
    turned = rotate(vectors, 9, OF_COLUMNS)
    assert turned.dtype == dtype
    assert rotate(vectors[0], 9, OF_COLUMNS).shape == (length,)
    assert rotate(vectors[:0, None], 9, OF_COLUMNS).shape == (0, 1, length)
    tolerance = {torch.bfloat16: 3e-2, torch.float16: 4e-3}.get(dtype, 1e-5)
    back = rotate_back(turned, 9, OF_COLUMNS)
    torch.testing.assert_close(back, vectors, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(turned.norm(dim=-1), vectors.norm(dim=-1), rtol=tolerance, atol=tolerance)


def test_a_peak_is_spread_over_the_whole_length():
    for length in (12, 53, 384, 1536):
        peaks = rotate(torch.eye(length), 1, OF_ROWS)
        assert float(peaks.abs().max()) <= math.sqrt(2 / length) + 1e-6


def test_signs_are_even_and_differ_by_seed_stream_and_place():
    like = torch.zeros(4096)
    found = torch.stack(
        [signs(seed, stream, like) for seed in (0, 1, 2, 2**31 - 1) for stream in (OF_ROWS, OF_COLUMNS)]
    )
    assert set(found.unique().tolist()) == {-1.0, 1.0}
    every = torch.cat([found, found.roll(1, 1), found.roll(7, 1)])
    alike = every @ every.T / 4096 - torch.eye(len(every))  # nothing is like another, or like itself elsewhere
    assert float(alike.abs().max()) < 5 / math.sqrt(4096)
    assert float(found.mean(1).abs().max()) < 5 / math.sqrt(4096)
    assert torch.equal(signs(3, 1, like[:100]), signs(3, 1, like)[:100])
    assert signs(0, 0, like[:8]).tolist() == [1, -1, 1, -1, -1, 1, 1, -1]
    assert signs(1, 1, like[:8]).tolist() == [1, 1, -1, -1, 1, -1, 1, 1]


def test_gradients_of_a_rotation():
    vectors = torch.randn(2, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda given: rotate(given, 5, OF_ROWS), vectors)
    assert torch.autograd.gradcheck(lambda given: rotate_back(given, 5, OF_ROWS), vectors)


def test_what_was_kept_in_inference_mode_serves_outside_of_it():
    with torch.inference_mode():
        rotate(torch.randn(48), 77, OF_ROWS)
    rotate(torch.randn(48, requires_grad=True), 77, OF_ROWS).sum().backward()


@pytest.mark.parametrize("shape", [(53, 12), (1, 40), (40, 1), (96, 48), (17, 2 * 1031)])
def test_a_matrix_that_was_turned_is_read_as_it_was(shape):
    matrix = torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    rows = turned(matrix, 4)
    expected = matrix_of(shape[0], 4, OF_ROWS) @ matrix @ matrix_of(shape[1], 4, OF_COLUMNS).T
    torch.testing.assert_close(rows, expected)
    inner = Dense(*shape).double()
    inner.rows.data.copy_(rows)
    torch.testing.assert_close(Rotated(inner, 4).dense(), matrix)


def cut(matrix, rows, columns):
    """The tiles of a matrix, one after another, zeros where they stick out."""
    height, width = matrix.shape
    padded = torch.nn.functional.pad(matrix, (0, -width % columns, 0, -height % rows))
    strips = [strip.split(columns, 1) for strip in padded.split(rows)]
    return torch.stack([tile.flatten() for strip in strips for tile in strip])


@pytest.mark.parametrize(
    ("shape", "tile"), [((53, 12), (16, 16)), ((1, 40), (4, 8)), ((40, 1), (8, 1)), ((8, 8), (4, 4))]
)
def test_tiles_are_joined_as_they_were_cut(shape, tile):
    matrix = torch.randn(*shape)
    form = Tiles(Dense.of(cut(matrix, *tile), dtype=torch.float32), *shape, *tile)
    assert form.inner.num_embeddings == tiles_of(*shape, *tile)
    assert torch.equal(form.dense(), matrix)
    ids = torch.tensor([[0, shape[0] - 1], [0, 0]])
    assert torch.equal(form.lookup(ids), matrix[ids])
    across = -(-shape[1] // tile[1])
    first = form.inner.dense()[across - 1].view(tile)
    last = shape[1] - (across - 1) * tile[1]
    assert torch.equal(first[:, :last][: shape[0]], matrix[: tile[0], -last:])


def test_a_lookup_reads_only_the_tiles_of_its_rows():
    form, read = fill(Tiles(Trellis(40, [(64, 2, 1)], 9), 78, 26, 8, 8)), []
    lookup = form.inner.lookup
    form.inner.lookup = lambda ids: read.extend(ids.unique().tolist()) or lookup(ids)
    expected = form.dense()[[3, 77]]
    read.clear()
    assert torch.equal(form.lookup(torch.tensor([3, 77])), expected)
    assert sorted(read) == [0, 1, 2, 3, 36, 37, 38, 39]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Tiles(Dense(1, 4096 * 4096), 1, 1, 4096, 4096), "its tiles from 1 to 256"),
        (lambda: Tiles(Dense(1, 256), 0, 5), "sides from 1"),
        (lambda: Tiles(Dense(3, 256), 17, 17), r"needs a form of the shape \(4, 256\), got \(3, 256\)"),
        (lambda: Rotated(Dense(3, 4), 2**31), "the seed of a rotation is 0 to 2,147,483,647, got 2147483648"),
        (lambda: Rotated(Dense(3, 4), -1), "got -1"),
        (lambda: Rotated(Dense(0, 4), 1), "only a matrix with entries can be rotated"),
    ],
)
def test_bad_shapes_and_seeds_are_refused(make, words):
    with torch.device("meta"), pytest.raises(ValueError, match=words):
        make()


@pytest.mark.parametrize("form", ["rotated", "tiles"])
def test_what_is_read_whole_expands_within_limits(form):
    square = {"form": "dense", "num_embeddings": 2**12, "embedding_dim": 2**8, "dtype": "float16"}
    product = {"form": "kronecker", "left": square, "right": square, "num_embeddings": 2**24}
    outer = {
        "rotated": {"seed": 1},
        "tiles": {"num_embeddings": 2**32, "embedding_dim": 2**8, "rows": 2**8, "columns": 2**8},
    }
    with torch.device("meta"), pytest.raises(ValueError, match=r"the inner entries take 4,398,046,511,104 bytes"):
        build({"form": form, "inner": product, **outer[form]})


def a_map(rows=40, columns=24):
    """A linear map as it is stored, tiles sticking out on both sides."""
    codes = Trellis(tiles_of(rows, columns, 16, 16), [(256, 2, 1)], 12)
    return fill(Scaled(Rotated(Tiles(codes, rows, columns), 6)))


@pytest.mark.parametrize("shape", [(1, 40), (40, 1), (53, 12), (96, 100), (17, 2 * 1031), (300, 36)])
@torch.no_grad()
def test_loops_turn_matrices_of_all_shapes_back(shape):
    form = a_map(*shape)
    near(inference.dense(form), form.dense(), torch.float32)
    ids = torch.tensor([[0, shape[0] - 1], [0, 0]])
    near(inference.lookup(form, ids), form.dense()[ids], torch.float32)
    hidden = torch.randn(3, shape[1], generator=torch.Generator().manual_seed(0))
    near(inference.logits(form, hidden), hidden @ form.dense().T, torch.float32)


@torch.no_grad()
def test_a_map_of_trellis_codes_is_decoded_once():
    linear, hidden = CompressedLinear(a_map()), torch.randn(2, 5, 24)
    expected = hidden @ linear.table.dense().T
    read_with(linear)
    assert type(linear.reader) is Resident
    near(linear(hidden), expected, torch.float32)
    rows = linear.reader._cached[1].rows
    assert rows.is_contiguous()
    near(linear(hidden), expected, torch.float32)
    assert linear.reader._cached[1].rows is rows
    linear.bfloat16()
    near(linear(hidden.bfloat16()), expected.bfloat16(), torch.bfloat16)
    assert linear.reader._cached[1].rows.dtype == torch.bfloat16
    read_with(linear, resident="codes")
    assert type(linear.reader) is Reader
    read_with(floats := CompressedLinear(Rotated(Dense(4, 4), 1)))
    assert type(floats.reader) is Reader


def test_scales_train_while_the_matrix_inside_is_decoded_once(monkeypatch):
    form, bits = a_map(), a_map().total_bits()
    hidden = torch.randn(3, 24, generator=torch.Generator().manual_seed(0), requires_grad=True)
    ids, leaves = torch.tensor([[1, 39], [1, 7]]), (hidden, form.rows, form.columns)
    read = lambda: (form.logits(hidden), form.lookup(ids), form.dense())  # noqa: E731
    gradients = lambda: [  # noqa: E731
        torch.autograd.grad(each.square().sum(), leaves, allow_unused=True) for each in read()
    ]
    expected, expected_gradients = read(), gradients()
    hold(form)
    decode = lambda *_: pytest.fail("decoded again")  # noqa: E731
    with monkeypatch.context() as patch:
        patch.setattr(Trellis, "lookup", decode)
        torch.testing.assert_close(read(), expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(gradients(), expected_gradients, rtol=1e-4, atol=1e-4)
        assert [name for name, _ in form.named_parameters()] == ["rows", "columns"]
        assert form.config() == a_map().config()
    form.rows.data *= 2
    freeze(form)
    torch.testing.assert_close(form.dense(), 2 * expected[2], rtol=1e-4, atol=1e-4)
    assert form.total_bits() == bits


@pytest.mark.parametrize("rows", [1, 2])
def test_the_rows_of_a_tied_table_are_decoded_once(rows):
    blocks = [Trellis(20, [Run(16, 1)], 8) for _ in range(rows)]
    for block in blocks:
        block.codes.random_(generator=torch.Generator().manual_seed(2))
    basis = Scalar(16, 24, 8, "row")
    table = Projected(Rows(blocks), basis)
    before = table.dense()
    thaw(table)
    hold(table)
    assert type(table.inner) is Held
    assert [name for name, _ in table.named_parameters()] == ["bias", "basis.values"]
    freeze(table)
    assert type(table.inner.blocks[-1]) is Trellis
    torch.testing.assert_close(table.dense(), before)
