"""A token embedding with a gate for each token, trained by DiscBlock-D."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Rows = Callable[[Tensor], Tensor]
"""Token ids -> their rows."""

LEAST_GATE, MOST_GATE = 0.001, 1.0


class Gated(nn.Module):
    """Replaces a token embedding while its gates are learned; the parameters of its own are trained.

    In the row of token t, coordinates j >= g_t d are masked. The gradient treats each coordinate of the mask as the
    gate times d. Then one of several square layers compensates for the masked coordinates. A linear selector chooses it
    by the mask, through a hard Gumbel softmax with the gradient of the soft one.

    Args:
        original: The embedding; it is not trained.
        gates: (V).
        layers: Number of square layers; each starts as the identity.
        temperature: Temperature of the Gumbel softmax.
        generator: Draws its noise; on the embedding's device.
    """

    def __init__(
        self, original: nn.Module, gates: Tensor, layers: int, temperature: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        weight: Tensor = original.weight  # pyright: ignore[reportAssignmentType]
        width, device = weight.shape[1], weight.device
        self.original, self.width = original, width
        self.temperature, self.generator = temperature, generator
        self.gates = nn.Parameter(gates.to(device).clamp(LEAST_GATE, MOST_GATE))
        self.layers = nn.Parameter(torch.eye(width, device=device).repeat(layers, 1, 1))
        self.offsets = nn.Parameter(torch.zeros(layers, 1, width, device=device))
        # As in the published code: a sum over the mask, then a score for each layer.
        self.share = nn.Parameter(torch.ones(width, 1, device=device))
        self.scores = nn.Parameter(torch.ones(1, layers, device=device))
        self.bias = nn.Parameter(torch.zeros(layers, device=device))
        self._rows: Rows = original.forward

    @property
    def weight(self) -> Tensor:
        """The original table, for models that read it."""
        return self.original.weight  # pyright: ignore[reportReturnType]

    def forward(self, ids: Tensor) -> Tensor:
        """The original rows, or inside `reading` other rows; shape (*ids.shape, d)."""
        return self._rows(ids)

    @contextmanager
    def reading(self, rows: Rows) -> Iterator[None]:
        """Read other rows, such as `gated`, inside the context."""
        before, self._rows = self._rows, rows
        try:
            yield
        finally:
            self._rows = before

    def mask(self, ids: Tensor) -> Tensor:
        """0 or 1 for each coordinate, (*ids.shape, d), with the gradient of the gate times d."""
        reach = self.gates[ids][..., None] * self.width
        mask = (torch.arange(self.width, device=reach.device) < reach).to(reach.dtype)
        return mask + (reach - reach.detach())

    def gated(self, ids: Tensor) -> Tensor:
        """Masked rows, each through one of the layers; shape (*ids.shape, d)."""
        mask = self.mask(ids)
        logits = (mask @ self.share @ self.scores + self.bias) / self.temperature
        noise = -torch.empty_like(logits).exponential_(generator=self.generator).log()
        soft = (logits + noise / self.temperature).softmax(-1)
        hard = nn.functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
        chosen = hard + (soft - soft.detach())
        masked = (self.original(ids) * mask).reshape(-1, self.width)
        made = masked @ self.layers + self.offsets  # (layers, tokens, d)
        return torch.einsum("ltd,tl->td", made, chosen.reshape(len(masked), -1)).reshape(*ids.shape, self.width)
