"""What every method promises: validate, plan inside the budget, fit, round, check."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from vocabpress.budget import Budget, largest
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.fitting.fold import can_fold, check_metric, fold, power, unevenness
from vocabpress.fitting.shards import ALONE, Shards
from vocabpress.fitting.table import Table

LARGEST = 1e12  # entry of a table: a billion of such squares add up in float32
SMALLEST = 1e-15  # of the largest entry: a product of two float16 numbers is not less, and squares of less are nothing
ROWS_ROUNDED = 2**14  # at a time
Plan = dict[str, Any]
"""Sizes by name: integers, or tuples of them."""


class Family(NamedTuple):
    """Plans that differ in one size alone; the budget picks the largest size that fits.

    Attributes:
        fixed: What the plans share.
        size: Name of what they differ in.
        sizes: Its values, integers or tuples of them; a later one never stores less.
    """

    fixed: Plan
    size: str
    sizes: Sequence[Any]


@dataclass(frozen=True)
class Method(ABC):
    """How a table is fitted. The fields of a subclass are its hyper-parameters; it holds no tensors.

    `fit` is final. A method says which plans there are (`families`), what a plan stores (`empty`), and how to fit one
    (`fit_plan`); a method with several families also says which plan to take (`choose`).
    """

    paper: ClassVar[str]
    """Where the method was published."""

    def families(self, num_embeddings: int, embedding_dim: int, weights: Tensor) -> list[Family]:
        """The plans for a table of this shape, the preferred family first; sizes ascend.

        None, unless a method has such: one whose plans depend on the table overrides `plans`.

        Args:
            num_embeddings: V.
            embedding_dim: d.
            weights: (V), not negative, mean 1; for methods that cut the vocabulary by them.
        """
        return []

    @abstractmethod
    def empty(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> CompressedEmbedding:
        """What a plan stores, without numbers, on the current device."""

    @abstractmethod
    def fit_plan(
        self, table: Table, plan: Plan, weights: Tensor, generator: torch.Generator, progress: bool
    ) -> CompressedEmbedding:
        """Fit a plan; the result has the config of `empty`.

        Args:
            table: (V, d), float32; read chunk by chunk, for it may be as large as the memory.
            plan: One of `plans`.
            weights: (V), not negative, mean 1.
            generator: All randomness, on the table's device.
            progress: Whether to draw progress bars on stderr.
        """

    def for_head(self, tied: bool) -> "Method":
        """This method for a table that an output head is tied to, or not; only settings that are None differ."""
        return self

    def choose(
        self, table: Table, plans: list[Plan], weights: Tensor, generator: torch.Generator, progress: bool
    ) -> Plan:
        """The plan to fit, out of `plans`; the first, unless a method searches."""
        return plans[0]

    def expected_seconds(self, sample: Table, num_embeddings: int, budget: Budget) -> float | None:
        """About how long a fit of a table like a sample takes here; None where the method can't tell in a second.

        Args:
            sample: Some rows of the table, or of one like it.
            num_embeddings: Rows of the table.
            budget: Of the table.
        """
        return None

    def stored_bits(self, num_embeddings: int, embedding_dim: int, plan: Plan) -> int:
        """Bits that a plan stores, counted on the empty form."""
        with torch.device("meta"):
            return self.empty(num_embeddings, embedding_dim, plan).total_bits()

    def plans(
        self, num_embeddings: int, embedding_dim: int, budget: Budget, weights: Tensor | None = None
    ) -> list[Plan]:
        """For each family the largest plan inside the budget; no weights means all tokens alike.

        Raises:
            ValueError: If no plan fits; the message says what the smallest takes. Or if the weights are not (V).
        """
        limit = budget.max_bits(num_embeddings, embedding_dim)
        weights = torch.ones(num_embeddings) if weights is None else weights
        if weights.shape != (num_embeddings,):
            raise ValueError(f"the weights have shape {tuple(weights.shape)}, the table needs ({num_embeddings},)")
        plans, smallest = [], []
        for fixed, size, sizes in self.families(num_embeddings, embedding_dim, weights):

            def bits(n: Any, fixed: Plan = fixed, size: str = size) -> int:
                return self.stored_bits(num_embeddings, embedding_dim, {**fixed, size: n})

            best = largest(bits, limit, sizes)
            if best is not None:
                plans.append({**fixed, size: best})
            elif sizes:
                smallest.append(bits(sizes[0]))
        if not plans:
            raise self.too_little(num_embeddings, embedding_dim, budget, min(smallest))
        return plans

    def too_little(self, num_embeddings: int, embedding_dim: int, budget: Budget, least: int) -> ValueError:
        """The error of a budget that no plan meets; ``least`` is the bits of the smallest one."""
        allowed, ratio = budget.max_bits(num_embeddings, embedding_dim), num_embeddings * embedding_dim * 32 / least
        return ValueError(
            f"{budget} leaves {allowed // 8:,} bytes for this table of {num_embeddings} x {embedding_dim}; the least "
            f"that {type(self).__name__} can store is {least // 8:,} bytes (ratio {ratio:.4g} to float32); "
            "allow that much, or try another method"
        )

    def fit(
        self,
        table: Tensor,
        *,
        budget: Budget,
        token_weights: Tensor | None = None,
        metric: Tensor | None = None,
        generator: torch.Generator | None = None,
        progress: bool = False,
        shards: Shards = ALONE,
    ) -> CompressedEmbedding:
        """Fit a table inside a budget.

        With a metric M, an error e of a row counts e M e^T: the table times M^(1/2) is fitted, and M^(-1/2) folded into
        the decoders of the result, so that it costs no byte.

        The table is read chunk by chunk, and may be mapped from a file. Beside it and the result a fit holds a few
        hundred megabytes, and some numbers for each row.

        Args:
            table: (V, d), any float dtype; the fit runs in float32 on its device. Entries are at most 1e12; a table
                without one of 1e-15 is taken for zeros.
            budget: The most that may be stored.
            token_weights: (V), how much each row's error counts; None counts all alike.
            metric: (d, d), symmetric and not negative, for methods whose rows are read through a basis; None is the
                identity. Its scale does not matter.
            generator: All randomness; None starts from seed 0.
            progress: Whether to draw progress bars on stderr.
            shards: The processes that fit the table together; ``table`` then has the rows that `Shards.rows` gives
                this one, everything else is the same for all, and all get the whole result.

        Returns:
            A form whose ``total_bits()`` is inside the budget, its values rounded to what is stored.

        Raises:
            ValueError: If the table, the weights or the metric can't be fitted, or no plan meets the budget.
        """
        rows = sharded(table, shards)
        largest = check_table(rows)
        weights = check_weights(token_weights, len(rows), rows.device)
        plans = self.plans(*rows.shape, budget, weights)
        rows = rows.cached() if largest >= SMALLEST else rows.map(lambda _, part: torch.zeros_like(part))
        if generator is None:
            generator = torch.Generator(rows.device).manual_seed(0)
        if metric is None:
            plan = shards.agree_on(self.choose(rows, plans, weights, generator, progress))
            return rounded(self.fit_plan(rows, plan, weights, generator, progress), rows)
        check_metric(metric, rows.shape[1])
        root, inverse = (power(metric.to(rows.device), half).float() for half in (0.5, -0.5))
        turned = rows.times(shards.agree(root)).cached()
        plans = [plan | {"uneven": unevenness(metric)} for plan in self._foldable(plans, *rows.shape)]
        plan = shards.agree_on(self.choose(turned, plans, weights, generator, progress))
        fitted = self.fit_plan(turned, plan, weights, generator, progress)
        fold(fitted, shards.agree(inverse))
        return rounded(fitted, rows)

    def takes_metric(self, num_embeddings: int, embedding_dim: int, budget: Budget) -> bool:
        """Whether a fit of a table of this shape takes a metric."""
        try:
            self._foldable(self.plans(num_embeddings, embedding_dim, budget), num_embeddings, embedding_dim)
        except ValueError:
            return False
        return True

    def _foldable(self, plans: list[Plan], num_embeddings: int, embedding_dim: int) -> list[Plan]:
        """The plans whose rows are read through a basis.

        Raises:
            ValueError: If there is none.
        """
        with torch.device("meta"):
            found = [plan for plan in plans if can_fold(self.empty(num_embeddings, embedding_dim, plan))]
        if not found:
            raise ValueError(
                f"{type(self).__name__} does not read rows through a linear basis here, into which a metric could go; "
                "leave the metric out, or try svd, lighttoken or tcq"
            )
        return found


def rounded(embedding: CompressedEmbedding, table: Table) -> CompressedEmbedding:
    """What was fitted to ``table``, rounded in place to what is stored.

    Raises:
        ValueError: If a value is beyond what its stored dtype holds.
    """
    for module in embedding.modules():
        dtype = getattr(module, "stored_dtype", torch.float32)
        for parameter in module.parameters(recurse=False):
            # Some at a time: a factor of low rank has a row for each token.
            for some in parameter.data.split(ROWS_ROUNDED):
                some.copy_(some.to(dtype))
                if not bool(some.isfinite().all()):
                    raise ValueError(
                        "a fitted value is too large for its float16 storage; the table reaches "
                        f"{largest_entry(table):.3g}, scale it down first"
                    )
    return embedding


def largest_entry(table: Table) -> float:
    """The largest magnitude."""
    (found,) = table.fold(lambda _, rows: (rows.abs().max(),), lambda a, b: (torch.maximum(a[0], b[0]),))
    return float(found)


def sharded(table: Tensor, shards: Shards) -> Table:
    """A table of which this process has some rows, or all.

    Raises:
        ValueError: If it is not a float matrix, is empty, or has other rows than `Shards.rows` says.
    """
    count = shards.total(len(table)) if table.ndim else 0
    if table.ndim != 2 or not table.is_floating_point() or min(count, table.shape[1]) < 1:
        raise ValueError(f"a table is a float matrix (V, d), got {table.dtype} of shape {tuple(table.shape)}")
    wanted = shards.rows(count, table.shape[1])
    if shards.total(len(wanted) != len(table)):
        raise ValueError(
            f"process {shards.rank} of {shards.world} brings {len(table)} of {count} rows, it should have those from "
            f"{wanted.start} to {wanted.stop}; take what Shards.rows({count}, {table.shape[1]}) says"
        )
    return Table.of(table, shards, count, torch.float32)


def check_table(table: Table) -> float:
    """Refuse what is not finite, or out of all proportion; returns the largest magnitude.

    Raises:
        ValueError: With the first bad row, if an entry is NaN or infinite; if one is too large.
    """
    reach = table.column(lambda _, rows: rows.abs().amax(1))
    bad = ~reach.isfinite()
    if bool(bad.any()):
        raise ValueError(
            f"{int(bad.sum())} of {len(table)} rows hold NaN or infinite values, the first is row "
            f"{int(bad.nonzero()[0])}; repair the checkpoint first"
        )
    largest = float(reach.max())
    if largest > LARGEST:
        raise ValueError(
            f"the table reaches {largest:.3g}, whose squares don't add up in float32; entries are at "
            f"most {LARGEST:g}, so scale it down first"
        )
    return largest


def check_weights(token_weights: Tensor | None, count: int, device: torch.device) -> Tensor:
    """Token weights scaled to mean 1, float32, on the table's device; all ones for None.

    Raises:
        ValueError: If the shape is not (V), or a weight is negative or not finite, or all are zero.
    """
    if token_weights is None:
        return torch.ones(count, device=device)
    if token_weights.shape != (count,):
        raise ValueError(f"token_weights has shape {tuple(token_weights.shape)}, the table needs ({count},)")
    weights = token_weights.to(device, torch.float32)
    if not bool(weights.isfinite().all()) or bool((weights < 0).any()) or not bool(weights.sum() > 0):
        raise ValueError("token_weights must be finite, not negative and not all zero; try counts + 1")
    return weights / weights.mean()
