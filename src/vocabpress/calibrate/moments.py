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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.calibrate.outputs import Output
from vocabpress.hf.maps import weight_of
from vocabpress.hf.tables import input_table_name
from vocabpress.progress import Bar

MOST_OUTPUTS = 2**14  # of a map whose G is measured


@dataclass
class Moments:
    """Second moments of a map, means over the tokens that count.

    Attributes:
        inputs: H, (inputs, inputs).
        outputs: G, (outputs, outputs); None for maps of more than `MOST_OUTPUTS`, and for tables of tokens.
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
    def none(cls, outputs: int, inputs: int, most: int = MOST_OUTPUTS) -> "Moments":
        """Of a map that nothing has reached so far; G is there for ``most`` outputs or less."""
        seen = torch.zeros(outputs, outputs) if outputs <= most else None
        return cls(torch.zeros(inputs, inputs), seen, torch.zeros(inputs))


class Seen:
    """Records the inputs and outputs of maps while a model runs.

    Args:
        maps: Name -> module.
    """

    def __init__(self, maps: Mapping[str, nn.Module]) -> None:
        self.found: list[tuple[str, Tensor, Tensor]] = []
        self._hooks = [
            module.register_forward_hook(self._recorder(name), with_kwargs=True) for name, module in maps.items()
        ]

    def _recorder(self, name: str) -> Any:
        def record(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            embedding = isinstance(module, nn.Embedding)
            if embedding:  # nothing before it has a gradient
                output = output.detach().requires_grad_(torch.is_grad_enabled())
            self.found.append((name, given_to(args, kwargs).detach(), output))
            return output.clone() if embedding else output  # some models scale rows in place

        return record

    def __enter__(self) -> "Seen":
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()


def measure_moments(
    model: nn.Module, maps: Mapping[str, nn.Module], batches: Sequence[Output], progress: bool = False
) -> dict[str, Moments]:
    """The moments of some maps of a frozen model, by a forward and a backward pass for each batch.

    Args:
        model: The model that the batches run.
        maps: Name -> module, `nn.Linear` or alike.
        batches: From `read_outputs`.
        progress: Whether to draw a progress bar on stderr.
    """
    rows = input_rows(model)
    found = {
        name: Moments.none(*weight_of(module).shape, most=0 if module in rows else MOST_OUTPUTS)
        for name, module in maps.items()
    }
    squares = {name: torch.zeros(2, dtype=torch.float64) for name in maps}
    for run in Bar(batches, desc="linear maps", disable=not progress):
        with starting_at(rows), Seen(maps) as seen, torch.enable_grad():
            ran = run()
        ends = [output for _, _, output in seen.found if output.requires_grad]
        gradients = iter(torch.autograd.grad(ran.value, ends, allow_unused=True) if ends else ())
        for name, values, output in seen.found:
            gradient = next(gradients) if output.requires_grad else None
            if isinstance(maps[name], nn.Embedding):
                _add_reads(found[name], values, gradient, ran.counts)
            else:
                _add(found[name], squares[name], values, gradient, ran.counts)
    for name, moments in found.items():
        _finish(moments, squares[name])
    return found


def _add(moments: Moments, squares: Tensor, values: Tensor, gradient: Tensor | None, counts: Tensor) -> None:
    kept = counted(values, counts)
    moments.inputs += (kept.T @ kept).cpu()
    moments.mean += kept.sum(0).cpu()
    moments.tokens += len(kept)
    if gradient is None:
        return
    slopes = counted(gradient, counts).float()
    if moments.outputs is not None:
        moments.outputs += (slopes.T @ slopes).cpu()
    if values.ndim != 3 or values.shape[:2] != counts.shape:
        return
    centred = (values.float() - kept.mean(0)) * counts[..., None]
    slopes = gradient.float() * counts[..., None]
    together = ((slopes @ slopes.mT) * (centred @ centred.mT)).sum()
    alone = (slopes.square().sum(-1) * centred.square().sum(-1)).sum()
    squares += torch.stack((together, alone)).double().cpu()


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


def together(parts: Sequence[Moments]) -> Moments:
    """Moments of several embeddings that read one table: over the tokens of all of them."""
    tokens = sum(part.tokens for part in parts)
    shares = [part.tokens / max(1, tokens) for part in parts]
    inputs = torch.stack([share * part.inputs for share, part in zip(shares, parts, strict=True)]).sum(0)
    return Moments(inputs, None, torch.zeros(len(inputs)), tokens)


def counted(values: Tensor, counts: Tensor) -> Tensor:
    """The vectors of tokens that count, float32, (n, width); all, where a map does not see tokens side by side."""
    same = values.shape[:2] == counts.shape and values.ndim >= 3
    return (values[counts] if same else values).flatten(0, -2).float()


def given_to(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """What a map was called with, whether by its place or by its name."""
    return args[0] if args else next(iter(kwargs.values()))


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


def input_rows(model: Any) -> list[nn.Module]:
    """The embeddings of tokens, whose output the gradients go back to."""
    weight = model.get_submodule(input_table_name(model)).weight
    return [each for each in model.modules() if isinstance(each, nn.Embedding) and each.weight is weight]


class starting_at:  # noqa: N801
    """While it lasts, gradients go back to the outputs of these modules, whose parameters are frozen."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        def cut(_module: nn.Module, _inputs: Any, rows: Tensor) -> Tensor:
            return rows.detach().requires_grad_().clone()

        self._hooks = [module.register_forward_hook(cut) for module in modules]

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
