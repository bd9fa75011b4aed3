"""Peers that encode vectors: the quantisers of FAISS, with the names of its index factory."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from coded import Coded, Peer, load
from torch import Tensor

CODEBOOKS = {"float32": np.float32, "float16": np.float16}


@dataclass(frozen=True)
class FaissIndex(Peer):
    """A flat code index of FAISS (Douze et al., 2024), with the transforms before it.

    FAISS stores codebooks and rotations as float32. The bytes are then those of `faiss.serialize_index` without its
    header of less than a kilobyte and without the parts of PCAR that decoding does not need. With
    ``codebooks="float16"`` they are rounded after training and before the table is encoded, which halves them and costs
    next to nothing. A careful user would store this, though FAISS has no file format for it.

    Attributes:
        factory: For example ``"PQ96x5np"`` (product quantiser, 96 codes of 5 bits; ``np`` skips an ordering of the
            codes that only search needs), ``"OPQ48_288,PQ48x8np"`` (optimised: learned rotation to 288 dimensions)
            or ``"RQ34x4"`` (residual quantiser).
        codebooks: ``"float32"`` or ``"float16"``.
        rotations: Rounds that learn the rotation of OPQ; FAISS's default, 50, takes minutes and gains little.
        train_beam: Beam in the training of a residual quantiser. FAISS's default is 5; 1 takes a quarter of the time,
            and gave less error on the sample model. The table is encoded with FAISS's default.
    """

    factory: str = "PQ48x8np"
    codebooks: str = "float16"
    rotations: int = 10
    train_beam: int = 1
    method: ClassVar[str] = "faiss"
    package: ClassVar[str | None] = "faiss-cpu"
    module: ClassVar[str | None] = "faiss"

    def code(self, table: Tensor) -> Coded:
        faiss = load(self)
        values = table.float().contiguous().numpy()
        if self.codebooks not in CODEBOOKS:
            raise ValueError(f"codebooks are float32 or float16, got {self.codebooks!r}")
        try:
            index = faiss.index_factory(table.shape[1], self.factory)
            self._train(faiss, index, values)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise ValueError(f"FAISS can't train {self.factory!r} on a table {tuple(table.shape)}: {reason}") from None
        parts: dict[str, Tensor] = {}
        for name, vector in float_vectors(faiss, index).items():
            numbers = faiss.vector_to_array(vector).astype(CODEBOOKS[self.codebooks])
            faiss.copy_array_to_vector(numbers.astype(np.float32), vector)
            parts[name] = torch.from_numpy(numbers)
        index.add(values)
        codes = faiss.vector_to_array(core(faiss, index).codes).reshape(len(table), -1)
        parts["codes"] = torch.from_numpy(codes)
        return Coded(torch.from_numpy(index.reconstruct_n(0, len(table))), parts)

    def _train(self, faiss: Any, index: Any, values: np.ndarray) -> None:
        inner = core(faiss, index)
        for transform in transforms(faiss, index):
            if isinstance(transform, faiss.OPQMatrix):
                transform.niter = self.rotations
        quantiser = quantiser_of(faiss, inner)
        # By default FAISS samples 256 rows for each codeword; here all rows of the table are used.
        quantiser.cp.max_points_per_centroid = len(values)
        beam = getattr(quantiser, "max_beam_size", None)
        if beam is not None:
            quantiser.max_beam_size = self.train_beam
        index.train(values)
        if beam is not None:
            quantiser.max_beam_size = beam


def core(faiss: Any, index: Any) -> Any:
    """The index with the codes, without the transforms before it."""
    index = faiss.downcast_index(index)
    return faiss.downcast_index(index.index) if isinstance(index, faiss.IndexPreTransform) else index


def transforms(faiss: Any, index: Any) -> list[Any]:
    """The transforms before the codes, first to last."""
    index = faiss.downcast_index(index)
    if not isinstance(index, faiss.IndexPreTransform):
        return []
    return [faiss.downcast_VectorTransform(index.chain.at(place)) for place in range(index.chain.size())]


def quantiser_of(faiss: Any, inner: Any) -> Any:
    """The quantiser inside a flat index of codes.

    Raises:
        ValueError: If it is an index whose parts are not known here.
    """
    if isinstance(inner, faiss.IndexPQ):
        return inner.pq
    if isinstance(inner, faiss.IndexResidualQuantizer):
        return inner.rq
    raise ValueError(f"the parts of {type(inner).__name__} are not known; use PQ or RQ, with OPQ or PCAR before it")


def float_vectors(faiss: Any, index: Any) -> dict[str, Any]:
    """The vectors of floats that a trained index stores, by name: rotations, their biases, codebooks.

    Raises:
        ValueError: If it is an index whose parts are not known here.
    """
    found: dict[str, Any] = {}
    for place, transform in enumerate(transforms(faiss, index)):
        if not isinstance(transform, faiss.LinearTransform):
            raise ValueError(f"the parts of {type(transform).__name__} are not known; use OPQ or PCAR")
        found |= {f"rotation{place}": transform.A, f"bias{place}": transform.b}
    inner = core(faiss, index)
    quantiser = quantiser_of(faiss, inner)
    found["codebooks"] = quantiser.centroids if isinstance(inner, faiss.IndexPQ) else quantiser.codebooks
    return {name: vector for name, vector in found.items() if vector.size()}
