"""What reaches the linear maps of a model, and what their outputs do to the output of the model.

For a map y = x W^T, H = E[x^T x] over the tokens of unlabelled text, and G = E[g^T g], g the gradient of an output of
the model (see `outputs`) with respect to y. An error E of W then changes the output, to second order, by the square of
sum_t g_t E x_t^T. If x and g were independent from each other and from token to token, that would be tr(G E H E^T) a
token on average: the Kronecker-factored Fisher information of YAQA (Tseng et al., 2025). Where neighbouring tokens pull
the same way, sums over a sequence are larger. `coherence` says how much; our choice, because one slope over all maps
needs it: without it the maps of the last layers get too few bits.

A small embedding, such as that of positions, is a map, too: of a vector with a one at the row that is read. Its weight
is (rows, width) like a token table, so what a map calls outputs are its rows, with G the share of reads of each, and
H that of the gradients.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from vocabpress.calibrate.observed import Observation, counted, identity, observed
from vocabpress.calibrate.outputs import Output, Ran
from vocabpress.hf.maps import weight_of

MOST_OUTPUTS = 2**14  # of a map whose G is measured


class Inputs(NamedTuple):
    """What maps read in a batch.

    Attributes:
        squares: The sum of x^T x over the tokens that count, (inputs, inputs).
        sums: The sum of x, (inputs).
        tokens: How many there are.
        centred: The inputs less their mean, zeros where they don't count, (batch, tokens, inputs); None where tokens
            do not lie side by side.
    """

    squares: Tensor
    sums: Tensor
    tokens: int
    centred: Tensor | None

    @classmethod
    def of(cls, values: Tensor, counts: Tensor) -> Self:
        """Of values, (batch, tokens, inputs) or other shapes; see `observed.counted`."""
        kept = counted(values, counts)
        side_by_side = values.ndim == 3 and values.shape[:2] == counts.shape
        centred = (values.float() - kept.mean(0)) * counts[..., None] if side_by_side else None
        return cls((kept.T @ kept).cpu(), kept.sum(0).cpu(), len(kept), centred)


@dataclass
class Moments:
    """Second moments of a map, means over the tokens that count.

    Attributes:
        inputs: H, (inputs, inputs).
        outputs: G, (outputs, outputs); None for maps of more than `MOST_OUTPUTS`.
        mean: Of the inputs, (inputs).
        tokens: How many there were; 0 if no text reaches the map.
        coherence: E |sum_t g_t^T x_t|^2 over sequences, over the sum of E |g_t|^2 |x_t|^2; inputs without their mean.
    """

    inputs: Tensor
    outputs: Tensor | None
    mean: Tensor
    tokens: int = 0
    coherence: float = 1.0

    @classmethod
    def none(cls, outputs: int, inputs: int) -> "Moments":
        """Of a map that nothing has reached so far; G is there for `MOST_OUTPUTS` or less."""
        seen = torch.zeros(outputs, outputs) if outputs <= MOST_OUTPUTS else None
        return cls(torch.zeros(inputs, inputs), seen, torch.zeros(inputs))

    @property
    def idle(self) -> bool:
        """Whether no output depends on the map, as far as was seen."""
        return not self.tokens or (self.outputs is not None and not bool(self.outputs.any()))

    def add_inputs(self, read: Inputs) -> None:
        """Add the inputs of a batch."""
        self.inputs += read.squares
        self.mean += read.sums
        self.tokens += read.tokens

    def add_outputs(self, read: Inputs, gradient: Tensor, counts: Tensor) -> Tensor:
        """Add the gradients at the outputs of a batch; returns both sums of `coherence`, (2)."""
        slopes = counted(gradient, counts)
        if self.outputs is not None:
            self.outputs += (slopes.T @ slopes).cpu()
        if read.centred is None:
            return torch.zeros(2, dtype=torch.float64)
        slopes = gradient.float() * counts[..., None]
        together = ((slopes @ slopes.mT) * (read.centred @ read.centred.mT)).sum()
        alone = (slopes.square().sum(-1) * read.centred.square().sum(-1)).sum()
        return torch.stack((together, alone)).double().cpu()


def measure_moments(
    model: nn.Module,
    maps: Mapping[str, nn.Module],
    batches: Sequence[Output],
    progress: bool = False,
    also: Callable[[Ran, Observation], object] = lambda ran, seen: None,
) -> dict[str, Moments]:
    """The moments of some maps of a frozen model, by a forward and a backward pass for each batch.

    Args:
        model: The model that the batches run.
        maps: Name -> module, `nn.Linear` or alike.
        batches: From `read_outputs`.
        progress: Whether to draw a progress bar on stderr.
        also: Called with what each batch showed, of the token table and its head, too: `TableMetric.add` for one.
    """
    found = {name: Moments.none(*weight_of(module).shape) for name, module in maps.items()}
    squares = {name: torch.zeros(2, dtype=torch.float64) for name in maps}
    for ran, seen in observed(model, maps, batches, "linear maps" if progress else ""):
        also(ran, seen)
        inputs: dict[Any, Inputs] = {}  # several maps may read one tensor
        for name, values, gradient in seen.maps:
            if isinstance(maps[name], nn.Embedding):
                _add_reads(found[name], values, gradient, ran.counts)
                continue
            place = identity(values)
            read = inputs[place] = inputs.get(place) or Inputs.of(values, ran.counts)
            found[name].add_inputs(read)
            if gradient is not None:
                squares[name] += found[name].add_outputs(read, gradient, ran.counts)
    for name, moments in found.items():
        _finish(moments, squares[name])
    return found


def _add_reads(moments: Moments, ids: Tensor, gradient: Tensor | None, counts: Tensor) -> None:
    if gradient is None:
        return
    # Rows that are read once for all sequences have the sum of their gradients. Outputs are drawn for each sequence
    # (see `outputs`), so the squares of such sums are sums of squares on average.
    kept = counted(gradient, counts) if gradient.shape[:-1] == counts.shape else gradient.flatten(0, -2).float()
    alike = ids.shape == counts.shape or ids.shape in (counts.shape[1:], (1, *counts.shape[1:]))
    read = ids.expand(counts.shape)[counts] if alike else ids.flatten()
    moments.inputs += (kept.T @ kept).cpu()
    moments.tokens += len(read)
    if moments.outputs is None:
        return
    reads = read.bincount(minlength=len(moments.outputs))
    # Half of the reads are spread evenly: longer texts than these may read other rows.
    moments.outputs += (reads.float() / 2 + len(read) / (2 * len(reads))).diag().cpu()


def _finish(moments: Moments, squares: Tensor) -> None:
    together, alone = squares.tolist()
    moments.coherence = max(together / alone, 1.0) if alone > 0 else 1.0
    tokens = max(1, moments.tokens)
    moments.inputs /= tokens
    moments.mean /= tokens
    if moments.outputs is not None:
        moments.outputs /= tokens


def read_directly(maps: Mapping[str, nn.Module], run: Output) -> set[str]:
    """The maps, of those that were not called, whose weight some other module reads.

    Nothing is known of what reaches them.
    """
    weights: dict[str, Any] = {name: module.weight for name, module in maps.items()}
    if not weights:
        return set()
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        with torch.enable_grad():
            value = run().value
        if not value.requires_grad:
            return set()
        found = torch.autograd.grad(value, list(weights.values()), allow_unused=True)
    finally:
        for weight in weights.values():
            weight.requires_grad_(False)
    return {name for name, gradient in zip(weights, found, strict=True) if gradient is not None and gradient.any()}
