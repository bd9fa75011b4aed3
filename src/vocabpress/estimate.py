"""About how long a fit takes, told in a second: before it is begun, and for who looks at a model."""

import torch
from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.fitting.table import Table
from vocabpress.methods import Method

SAMPLE = 1536  # rows


def expected_seconds(method: Method, table: Tensor, budget: Budget) -> float | None:
    """Seconds of a fit on this machine, about; None where the method can't tell, or can't be fitted.

    Args:
        method: How it will be fitted.
        table: (V, d); some of its rows are looked at.
        budget: The most that may be stored.
    """
    places = torch.linspace(0, len(table) - 1, min(SAMPLE, len(table))).long()
    rows = table[places.to(table.device)].detach().float().cpu()
    if not bool(rows.isfinite().all()):
        return None
    try:
        return method.expected_seconds(Table.of(rows), len(table), budget)
    except ValueError:  # which the fit tells
        return None
