"""The expected cost of a fit: the bytes that are stored, and the time where a method can predict it."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.fitting.table import Table
from vocabpress.methods import Method

SAMPLE = 1536  # rows


@dataclass(frozen=True)
class Forecast:
    """The expected cost of a fit."""

    rows: int  # V
    columns: int  # d
    table_bytes: int  # of the table as it is
    stored_bytes: int  # of the compressed table, at most
    seconds: float | None  # here, within a factor of about two; None where the method can't predict it


def forecast(method: Method, table: Tensor, budget: Budget) -> Forecast:
    """The expected cost of a fit of a table, (V, d), by some of its rows; a ValueError if no plan fits the budget."""
    rows, columns = table.shape
    plans = method.plans(rows, columns, budget, torch.ones(rows))
    limit = budget.max_bits(rows, columns)
    stored = max(limit if _decided_later(plan) else method.stored_bits(rows, columns, plan) for plan in plans)
    size = table.numel() * table.itemsize
    return Forecast(rows, columns, size, stored // 8, expected_seconds(method, table, budget))


def expected_seconds(method: Method, table: Tensor, budget: Budget) -> float | None:
    """Approximate seconds of a fit on this machine; None if the method can't predict them or fit the table."""
    places = torch.linspace(0, len(table) - 1, min(SAMPLE, len(table))).long()
    rows = table[places.to(table.device)].detach().float().cpu()
    if not bool(rows.isfinite().all()):
        return None
    try:
        return method.expected_seconds(Table.of(rows), len(table), budget)
    except ValueError:  # which the fit raises again
        return None


def _decided_later(plan: Any) -> bool:
    """Whether a plan shares out the budget when the table and the weights are known: a limit, or blocks of tokens."""
    if isinstance(plan, dict):
        return not plan.keys().isdisjoint(("limit", "sizes")) or any(map(_decided_later, plan.values()))
    return False
