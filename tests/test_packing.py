import pytest
import torch

from vocabpress.packing import pack, packed_bytes, unpack


def test_worked_example():
    # 1, 2, 7 in 3 bits each, least significant bit first: 100 010 111 -> 11010001, 00000001
    packed = pack(torch.tensor([1, 2, 7]), 3)
    assert packed.tolist() == [0b11010001, 0b00000001]


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("shape", [(0,), (1,), (7,), (8,), (3, 5), (4, 0), (0, 5), (2, 3, 33), (1, 257)])
def test_round_trip_at_every_width(bits, shape):
    codes = torch.randint(0, 2**bits, shape)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (*shape[:-1], -(-shape[-1] * bits // 8))
    assert torch.equal(unpack(packed, bits, shape[-1]).long(), codes)


@pytest.mark.parametrize("bits", range(1, 9))
def test_extremes_survive_and_spare_bits_are_zero(bits):
    codes = torch.full((3,), 2**bits - 1)
    packed = pack(codes, bits)
    stream = sum(byte << (8 * place) for place, byte in enumerate(packed.tolist()))
    assert stream == 2 ** (3 * bits) - 1


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_widths_outside_1_to_8_are_refused(bits):
    with pytest.raises(ValueError, match="1 to 8"):
        packed_bytes(10, bits)


@pytest.mark.parametrize("bad", [-1, 8])
def test_codes_outside_their_width_are_refused(bad):
    with pytest.raises(ValueError, match="3 bits lie in 0 … 7"):
        pack(torch.tensor([1, bad]), 3)


def test_a_wrong_count_is_refused():
    with pytest.raises(ValueError, match="17 codes of 3 bits take 7 bytes, got 6"):
        unpack(torch.zeros(6, dtype=torch.uint8), 3, 17)
