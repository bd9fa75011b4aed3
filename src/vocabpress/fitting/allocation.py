"""How bits are shared out: from measured distortion-rate points to one slope for all, exact to the budget.

Independent parts (axes of a block, blocks of a table) each have options that cost bits and leave distortion. The least
total distortion inside a budget takes, up to one option, in every part the option that minimises
distortion + slope * cost for one common slope (Shoham and Gersho, 1988). What the slope leaves over is spent by the
steepest single steps that fit.
"""

import torch
from torch import Tensor


def allocate(costs: Tensor, distortions: Tensor, limit: int) -> Tensor:
    """The options, (parts), with nearly the least total distortion at a total cost within ``limit`` bits.

    ``costs`` are integers and ``distortions`` are infinite where an option can't be taken, both (parts, options). No
    option that can be taken is cheaper than the first one of its part; a ValueError says that those exceed the limit.
    """
    least = int(costs[:, 0].sum())
    if least > limit:
        raise ValueError(f"the cheapest options take {least} bits, the limit is {limit}; allow that much")
    costs, distortions = costs.double(), distortions.double()
    chosen = _at_slope(costs, distortions, limit)
    return _spend(costs, distortions, chosen, limit - float(_picked(costs, chosen).sum()))


def _picked(values: Tensor, chosen: Tensor) -> Tensor:
    return values.gather(1, chosen[:, None])[:, 0]


def _at_slope(costs: Tensor, distortions: Tensor, limit: float) -> Tensor:
    """The options at the smallest slope whose total stays within the limit.

    From its cheapest option each part goes along the lower hull of its options; the steps of all parts are taken
    together, the steepest first.
    """
    chosen = torch.where(costs == costs[:, :1], distortions, torch.inf).argmin(1)
    path, slopes, extras = [chosen], [], []
    for _ in range(costs.shape[1]):  # the last goes nowhere
        extra = costs - _picked(costs, chosen)[:, None]
        gain = _picked(distortions, chosen)[:, None] - distortions
        slope, option = torch.where((extra > 0) & (gain > 0), gain / extra, 0.0).max(1)
        slopes.append(slope)
        extras.append(_picked(extra, option))
        chosen = torch.where(slope > 0, option, chosen)
        path.append(chosen)
    # No step before the one that leads to it, however slopes round; those of equal slope lie in order.
    falling = torch.stack(slopes, 1).cummin(1).values.flatten()
    order = falling.argsort(descending=True, stable=True)[: int((falling > 0).sum())]
    taken = order[torch.stack(extras, 1).flatten()[order].cumsum(0) <= limit - float(_picked(costs, path[0]).sum())]
    steps = torch.bincount(taken // len(slopes), minlength=len(costs))
    return _picked(torch.stack(path, 1), steps)


def _spend(costs: Tensor, distortions: Tensor, chosen: Tensor, left: float) -> Tensor:
    """Single steps from an option to another, the most distortion for a bit first, while they fit what is left."""
    while True:
        extra = costs - _picked(costs, chosen)[:, None]
        gain = _picked(distortions, chosen)[:, None] - distortions
        worth = torch.where((extra <= left) & (gain > 0), gain / extra.clamp(min=1e-9), 0.0)
        if not float(worth.max()) > 0:
            return chosen
        part, option = divmod(int(worth.argmax()), costs.shape[1])
        left -= float(extra[part, option])
        chosen = chosen.index_fill(0, torch.tensor([part], device=chosen.device), option)
