"""The result of a peer: the decoded table, and the tensors that it must store."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from typing import Any, ClassVar

from torch import Tensor

from vocabpress.budget import dtype_name
from vocabpress.embeddings import StorageItem


@dataclass(frozen=True)
class Coded:
    """A table encoded by a peer.

    Attributes:
        table: (V, d), float32, as decoded by the peer.
        parts: Name -> tensor that decoding needs: codes, scales, zeros, codebooks, rotation, mean.
    """

    table: Tensor
    parts: dict[str, Tensor]

    @property
    def bytes(self) -> dict[str, int]:
        """Part -> bytes."""
        return {name: part.numel() * part.itemsize for name, part in self.parts.items()}

    @property
    def total(self) -> int:
        """Bytes of all parts."""
        return sum(self.bytes.values())

    @property
    def storage(self) -> list[StorageItem]:
        """One line for each part, as a compressed table lists its own."""
        return [
            StorageItem(name, tuple(part.shape), dtype_name(part.dtype), self.bytes[name] * 8)
            for name, part in self.parts.items()
        ]


class Peer(ABC):
    """A foreign compression method. A subclass is a frozen dataclass; its fields are its settings.

    Attributes:
        method: Its name in results.
        package: The pip name of its package; None if it needs none.
        module: The Python name of the package.
    """

    method: ClassVar[str]
    package: ClassVar[str | None] = None
    module: ClassVar[str | None] = None

    @abstractmethod
    def code(self, table: Tensor) -> Coded:
        """Encode a table and decode it.

        Args:
            table: (V, d).

        Raises:
            ValueError: If the peer is not installed, or can't encode a table of this shape.
        """

    def installed_version(self) -> str | None:
        """Version of its package; None where it needs none."""
        return None if self.package is None else version(self.package)


def load(peer: Peer, submodule: str = "") -> Any:
    """The peer's module, or one inside it.

    Raises:
        ValueError: If it is not installed.
    """
    try:
        return import_module(f"{peer.module}{submodule}")
    except ImportError as error:
        raise ValueError(
            f"{peer.method} needs {peer.package} ({error}); pip install -r benchmarks/peers/requirements.txt"
        ) from None
