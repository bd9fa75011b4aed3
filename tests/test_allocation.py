"""Bits shared out by one slope, against all choices there are."""

from itertools import product

import pytest
import torch

from vocabpress.fitting.allocation import allocate


def total(values, chosen):
    return float(values.gather(1, torch.as_tensor(chosen)[:, None]).sum())


@pytest.mark.parametrize("seed", range(5))
def test_close_to_the_best_of_all_choices_and_never_over_the_limit(seed):
    generator = torch.Generator().manual_seed(seed)
    costs = torch.randint(1, 9, (4, 5), generator=generator).cumsum(1) - 1
    energy = torch.rand(4, 1, generator=generator) * 10 + 0.1
    distortions = energy * 4.0 ** -(costs / 8)
    for limit in range(int(costs[:, 0].sum()), int(costs[:, -1].sum()) + 1, 3):
        chosen = allocate(costs, distortions, limit)
        assert total(costs, chosen) <= limit
        inside = [c for c in product(range(5), repeat=4) if total(costs, c) <= limit]
        best = min(total(distortions, c) for c in inside)
        # The convex hull loses at most one option's step; greedy steps win most of that back.
        step = float((distortions[:, :-1] - distortions[:, 1:]).max())
        assert total(distortions, chosen) <= best + step


def test_by_hand_two_axes_one_four_times_as_strong():
    # Reverse water-filling: the strong axis gets one bit more (a factor 4 of energy), 3 and 2 of 5.
    rates = torch.arange(6)
    costs = rates.expand(2, 6)
    distortions = torch.tensor([[4.0], [1.0]]) * 4.0**-rates
    assert allocate(costs, distortions, 5).tolist() == [3, 2]
    assert allocate(costs, distortions, 0).tolist() == [0, 0]
    assert allocate(costs, distortions, 100).tolist() == [5, 5]


def test_what_cannot_be_taken_is_not_taken():
    costs = torch.tensor([[3, 3, 4], [0, 1, 2]])
    distortions = torch.tensor([[torch.inf, 1.0, 0.9], [1.0, 0.5, 0.25]])
    assert allocate(costs, distortions, 5).tolist()[0] in (1, 2)
    with pytest.raises(ValueError, match="the cheapest options take 3 bits, the limit is 2"):
        allocate(costs, distortions, 2)
