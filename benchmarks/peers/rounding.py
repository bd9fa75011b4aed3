"""Peers that round single entries: plain round-to-nearest, HQQ, torchao, and PCA with int8 coefficients."""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from coded import Coded, Peer, load
from torch import Tensor, nn

from vocabpress.packing import pack, unpack


def _check_group(width: int, group: int) -> None:
    if group < 1 or width % group:
        raise ValueError(f"groups of {group} do not divide rows of {width}; give a divisor, for example {width}")


@dataclass(frozen=True)
class RoundToNearest(Peer):
    """Round-to-nearest with a scale for each group of a row, and a minimum too unless symmetric; both in float16.

    Attributes:
        bits: 1 to 8, packed without gaps; 2 to 8 if symmetric.
        group: Entries that share a scale.
        symmetric: Levels from ``-(2**(bits-1) - 1)`` to the same above zero, as GPTQ and AWQ baselines name it.
    """

    bits: int = 4
    group: int = 64
    symmetric: bool = False
    method: ClassVar[str] = "rtn"

    def code(self, table: Tensor) -> Coded:
        width = table.shape[1]
        _check_group(width, self.group)
        if not 1 + self.symmetric <= self.bits <= 8:
            raise ValueError(f"round-to-nearest takes {1 + self.symmetric} to 8 bits, got {self.bits}")
        groups = table.float().unflatten(1, (-1, self.group))
        if self.symmetric:
            top = 2 ** (self.bits - 1) - 1
            scales = (groups.abs().amax(-1) / top).half()
            low = -top * scales.float()
        else:
            top = 2**self.bits - 1
            scales = ((groups.amax(-1) - groups.amin(-1)) / top).half()
            low = groups.amin(-1).half().float()
        step = torch.where(scales > 0, scales, 1).float()[..., None]
        levels = ((groups - low[..., None]) / step).round().clamp(0, 2 * top if self.symmetric else top)
        codes = pack(levels.flatten(1).to(torch.uint8), self.bits)
        read = unpack(codes, self.bits, width).unflatten(1, (-1, self.group)).float()
        read = read * scales.float()[..., None] + low[..., None]
        parts = {"codes": codes, "scales": scales} | ({} if self.symmetric else {"minima": low.half()})
        return Coded(read.flatten(1), parts)


@dataclass(frozen=True)
class HQQ(Peer):
    """Half-quadratic quantisation (Badri and Shaji, 2023), through its `HQQLinear`; it has no embedding class.

    Groups lie along the rows (axis 1), so that a row can be read alone. Scales and zeros are float16, the default
    ``compute_dtype`` in which they are saved. Real sizes exceed the nominal ones: 3 bits are packed ten to an int32
    (3.2 bits), and 5 and 6 bits take a byte.

    Attributes:
        bits: 1, 2, 3, 4, 5, 6 or 8.
        group: Entries that share a scale and a zero.
    """

    bits: int = 4
    group: int = 64
    method: ClassVar[str] = "hqq"
    package: ClassVar[str | None] = "hqq"
    module: ClassVar[str | None] = "hqq"

    def code(self, table: Tensor) -> Coded:
        quantize = load(self, ".core.quantize")
        rows, width = table.shape
        _check_group(width, self.group)
        if self.bits not in (1, 2, 3, 4, 5, 6, 8):
            raise ValueError(f"hqq takes 1, 2, 3, 4, 5, 6 or 8 bits, got {self.bits}")
        # hqq packs the first half of the groups with the second, at 1 bit the first eighth with the seven others, and
        # fails or drops groups where the number does not divide. Zero rows pad it; their bytes count.
        filled = torch.cat([table.float(), table.new_zeros(-rows % 8, width, dtype=torch.float32)])
        layer = quantize.HQQLinear.from_weights(
            filled,
            None,
            quantize.BaseQuantizeConfig(nbits=self.bits, group_size=self.group, axis=1),
            compute_dtype=torch.float16,
            device="cpu",
        )
        parts = {"codes": layer.W_q.data, "scales": layer.meta["scale"], "zeros": layer.meta["zero"]}
        return Coded(layer.dequantize().float()[:rows].clone(), parts)


@dataclass(frozen=True)
class TorchAO(Peer):
    """torchao's weight-only quantisation of an `nn.Embedding` by `quantize_`.

    `IntxWeightOnlyConfig` rounds to 1 to 8 bits but stores every code in an int8 and scales in the table's dtype
    (`IntxUnpackedToInt8Tensor`); those bytes are counted, because it saves them. Its packed embedding
    (`prototype.quantization.embedding`) needs kernels that the x86 wheel does not have, and `Int4WeightOnlyConfig` has
    no embedding. The asymmetric rows of `RoundToNearest` show the size of the same numbers with packing.

    Attributes:
        config: ``"Intx"``, ``"Int8"`` or ``"Float8"``: the class ``<config>WeightOnlyConfig``.
        bits: For Intx.
        group: Entries that share a scale, for Intx; the others have a scale for each row, which is their default.
        symmetric: For Intx; its own default.
    """

    config: str = "Intx"
    bits: int = 8
    group: int = 64
    symmetric: bool = True
    method: ClassVar[str] = "torchao"
    package: ClassVar[str | None] = "torchao"
    module: ClassVar[str | None] = "torchao"

    def code(self, table: Tensor) -> Coded:
        library = load(self, ".quantization")
        model = nn.Sequential(nn.Embedding.from_pretrained(table.float().clone()))
        library.quantize_(
            model, self._config(library, table.shape[1]), lambda module, _: isinstance(module, nn.Embedding)
        )
        weight: Any = model[0].weight
        names = [*weight.tensor_data_names, *getattr(weight, "optional_tensor_data_names", [])]
        parts = {name: getattr(weight, name) for name in names if getattr(weight, name) is not None}
        with torch.no_grad():
            return Coded(model(torch.arange(len(table))).clone(), parts)

    def _config(self, library: Any, width: int) -> Any:
        if self.config == "Intx":
            _check_group(width, self.group)
            mapping = load(self, ".quantization.quant_primitives").MappingType
            return library.IntxWeightOnlyConfig(
                weight_dtype=getattr(torch, f"int{self.bits}"),
                granularity=library.PerGroup(self.group),
                mapping_type=mapping.SYMMETRIC if self.symmetric else mapping.ASYMMETRIC,
            )
        if self.config not in ("Int8", "Float8"):
            raise ValueError(f"torchao has no embedding for {self.config!r}; choose Intx, Int8 or Float8")
        return getattr(library, f"{self.config}WeightOnlyConfig")(set_inductor_config=False)


@dataclass(frozen=True)
class PCAInt8(Peer):
    """The compression of model2vec for static tables: scikit-learn's PCA, then int8 with one scale for all entries.

    model2vec uses the k numbers of a row as the embedding. Inside a transformer the row must have d numbers, so mean
    and components, in float16, are stored too, and the row is projected back.

    Attributes:
        components: k, at most d.
    """

    components: int = 59
    method: ClassVar[str] = "pca-int8"
    package: ClassVar[str | None] = "scikit-learn"
    module: ClassVar[str | None] = "sklearn"

    def code(self, table: Tensor) -> Coded:
        if not 1 <= self.components <= min(table.shape):
            raise ValueError(f"PCA of a table {tuple(table.shape)} has 1 to {min(table.shape)} components")
        pca = load(self, ".decomposition").PCA(self.components, svd_solver="full")
        coefficients = torch.from_numpy(pca.fit_transform(table.float().numpy())).float()
        basis, mean = torch.from_numpy(pca.components_).half(), torch.from_numpy(pca.mean_).half()
        scale = coefficients.abs().max() / 127
        codes = (coefficients / scale).round().to(torch.int8)
        read = codes.float() * scale @ basis.float() + mean.float()
        return Coded(read, {"codes": codes, "scale": scale[None], "components": basis, "mean": mean})
