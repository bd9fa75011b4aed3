"""Code a matrix tile by tile, so that errors of later tiles undo what errors of earlier ones did to the outputs.

LDLQ rounds the columns of the matrix W of a linear map one after the other, and adds to each what the errors so far
want of it (QuIP, Chee et al., NeurIPS 2023, section 3; with Cholesky factors it is GPTQ). In blocks of columns it takes
codes of several entries (QuIP# and QTIP, Tseng et al., 2024). YAQA (Tseng et al., 2025) adds the same for rows. The
error E is measured by

    tr(G E H E^T),   H = E[x^T x] of the inputs x, G = E[g^T g] of the gradients g at the outputs,

which is the expected squared change of the model's output, to first order in E, if x and g are independent.

With G = L_G D_G L_G^T and H = L_H D_H L_H^T, L unit lower triangular in blocks of a tile's sides and D block diagonal,
this is tr(D_G M D_H M^T) for M = L_G^T E L_H. Entry by tile, M_jk is E_jk plus a sum over tiles that are not above and
not to the left of (j, k). So tiles are coded from the lower right corner; (j, k) aims at W_jk plus that sum, and M_jk
is then the error of the code alone. Tiles on one diagonal, from lower left to upper right, do not depend on each other.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Coder = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Codes of tiles, (n, rows * columns), as bytes, (n, bytes), and what they decode to."""


def code_with_feedback(
    matrix: Tensor, inputs: Tensor | None, outputs: Tensor | None, tile: tuple[int, int], code: Coder
) -> Tensor:
    """The codes of all tiles of a matrix, (tiles, bytes), in the order of `Tiles`.

    Args:
        matrix: (n, m), each side a multiple of the tile's, float32.
        inputs: H, (m, m), positive definite; None is the identity: no feedback between columns.
        outputs: G, (n, n), positive definite; None is the identity.
        tile: Rows and columns of a tile.
        code: Codes tiles that do not depend on each other.
    """
    rows, columns = tile
    down, across = len(matrix) // rows, matrix.shape[1] // columns
    goals = matrix.reshape(down, rows, across, columns)
    errors, carried = torch.zeros_like(goals), torch.zeros_like(goals)  # carried is E L_H
    # Block k of a factor, strictly below its diagonal: what is undone in block k for an error of one.
    right = None if inputs is None else below_diagonal(inputs, columns).view(-1, across, columns).transpose(0, 1)
    left = None if outputs is None else below_diagonal(outputs, rows).view(-1, down, rows).permute(1, 2, 0)
    codes: Tensor | None = None
    for diagonal in range(down + across - 2, -1, -1):
        j = torch.arange(max(0, diagonal - across + 1), min(down, diagonal + 1), device=matrix.device)
        k = diagonal - j
        aims, beside = goals[j, :, k], None
        if right is not None:
            beside = torch.bmm(errors[j].flatten(2), right[k])
            aims = aims + beside
        if left is not None:
            aims = aims + torch.bmm(left[j], carried[:, :, k].permute(2, 0, 1, 3).flatten(1, 2))
        packed, decoded = code(aims.flatten(1))
        wrong = goals[j, :, k] - decoded.view_as(aims)
        errors[j, :, k] = wrong
        carried[j, :, k] = wrong if beside is None else wrong + beside
        if codes is None:
            codes = packed.new_empty(down, across, packed.shape[1])
        codes[j, k] = packed
    assert codes is not None
    return codes.flatten(0, 1)


def below_diagonal(moments: Tensor, block: int) -> Tensor:
    """L less the identity, float32 (n, n), where ``moments`` is L D L^T in blocks of ``block`` rows and columns."""
    root = torch.linalg.cholesky(moments.double())
    blocks = root.unfold(0, block, block).unfold(1, block, block)  # (n / block, n / block, block, block)
    inverses = torch.linalg.inv(blocks.diagonal(dim1=0, dim2=1).permute(2, 0, 1))
    factor = torch.einsum("nkb,kbc->nkc", root.view(len(root), -1, block), inverses).flatten(1).float()
    places = torch.arange(len(root), device=root.device) // block
    return factor * (places[:, None] > places)


def damped(moments: Tensor, damping: float) -> Tensor:
    """Moments plus a share of their mean diagonal, so that they are positive definite; ones if all are zero."""
    size = moments.diagonal().mean()
    if not bool(size > 0):
        return torch.eye(len(moments), device=moments.device)
    return moments / size + damping * torch.eye(len(moments), device=moments.device)


def left_over(moments: Tensor, block: int) -> float:
    """The mean diagonal of D, in blocks of ``block`` rows and columns: what feedback leaves of positive definite moments.

    It is at most their mean diagonal, and for small blocks near the geometric mean of their eigenvalues.
    """
    root = torch.linalg.cholesky(moments.double())
    places = torch.arange(len(root), device=root.device) // block
    return float((root.square() * (places[:, None] == places)).sum() / len(root))
