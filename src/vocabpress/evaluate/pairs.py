"""Pairs of sentences or words with human similarity scores, and correlations; 0 if all values of one are equal."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from vocabpress.evaluate.cells import read_cells, read_score


class ScoredPair(NamedTuple):
    """Two texts and the human score."""

    first: str
    second: str
    score: float


class PairColumns(NamedTuple):
    """Columns of the two texts and the score in a file, counted from 0."""

    first: int
    second: int
    score: int
    separator: str | None = "\t"  # None is any white space
    highest: float = math.inf  # possible score; the lowest is 0
    unscored: bool = False  # whether rows may lack a score; these are left out


STSB = PairColumns(5, 6, 4, highest=5.0)
SEMEVAL = PairColumns(1, 2, 0, highest=5.0, unscored=True)
WORD_PAIRS = PairColumns(0, 1, 2, separator=None)


def read_pairs(file: Path, columns: PairColumns) -> list[ScoredPair]:
    """Read a file of pairs, at least two; a ValueError names the file and the line that is invalid."""
    places = (columns.first, columns.second, columns.score)
    needed, between = max(places) + 1, "tabs" if columns.separator == "\t" else "white space"
    pairs: list[ScoredPair] = []
    for where, cells in read_cells(file, columns.separator):
        if len(cells) < needed:
            found = f"{len(cells)} columns separated by {between}"
            raise ValueError(f"{where}: {found}, {needed} are needed; is it cut off?")
        first, second, text = (cells[place].strip() for place in places)
        if columns.unscored and not text:
            continue
        score = read_score(text, columns.highest, where)
        if not first or not second:
            raise ValueError(f"{where}: one of the two texts is empty")
        pairs.append(ScoredPair(first, second, score))
    if len(pairs) < 2:
        raise ValueError(f"{file} holds {len(pairs)} scored pairs; it is empty or cut off, download it again")
    return pairs


def rank_agreement(cosines: Tensor, pairs: Sequence[ScoredPair]) -> float:
    """Spearman correlation of the cosines, shape (pairs), with the scores, times 100."""
    return 100 * spearman(cosines, torch.tensor([pair.score for pair in pairs]))


def pearson(a: Tensor, b: Tensor) -> float:
    """Pearson correlation."""
    if bool((a == a[0]).all()) or bool((b == b[0]).all()):
        return 0.0
    return float(torch.corrcoef(torch.stack([a, b]))[0, 1])


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation; equal values share their mean rank."""
    return pearson(_ranks(a), _ranks(b))


def _ranks(values: Tensor) -> Tensor:
    _, inverse, counts = torch.unique(values, return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double()
    return (last - (counts.double() - 1) / 2)[inverse]
