"""Find the linear maps of a transformers model by their role, and compress them to Kronecker products.

KroneckerBERT (Tahaei et al., NAACL 2022, section 3.2) stores the query, key, value and output maps of each attention
layer (all heads together) and both maps of each feed-forward block as one Kronecker product each. Biases are unchanged.
"""

import re
import time
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from vocabpress.embeddings import CompressedEmbedding, Dense, Scalar
from vocabpress.fitting.kronecker import check_divides, empty_kronecker, fit_kronecker, most_terms
from vocabpress.hf.modules import CompressedLinear
from vocabpress.hf.request import LinearShapes
from vocabpress.hf.swap import check_linear, install_linear
from vocabpress.hf.tables import base_prefix
from vocabpress.progress import Bar

PROJECTIONS = "(q_proj|k_proj|v_proj|o_proj|out_proj|dense)"
# Names after the number of a layer. BERT and similar; MPNet; DistilBERT; Llama, BART and similar; T5; ALBERT; GPT-2.
ATTENTION = (
    r"(cross)?attention\.(self\.(query|key|value)(_proj)?|output\.dense)",
    r"attention\.attn\.[qkvo]",
    r"attention\.(q_lin|k_lin|v_lin|out_lin)",
    rf"(self_attn|encoder_attn|attention)\.{PROJECTIONS}",
    r"(SelfAttention|EncDecAttention)\.[qkvo]",
    r"attention\.(query|key|value|dense)",
    r"(attn|crossattention)\.(c_attn|q_attn|c_proj)",
)
FFN_FIRST = (
    r"intermediate\.dense",
    r"ffn\.lin1",
    r"mlp\.(gate_proj|up_proj)|(mlp\.)?fc1",
    r"DenseReluDense\.(wi|wi_0|wi_1)",
    r"ffn",
    r"mlp\.c_fc",
)
FFN_LAST = (
    r"output\.dense",
    r"ffn\.lin2",
    r"mlp\.down_proj|(mlp\.)?fc2",
    r"DenseReluDense\.wo",
    r"ffn_output",
    r"mlp\.c_proj",
)
PLACES = (("attention", False, ATTENTION), ("ffn", False, FFN_FIRST), ("ffn", True, FFN_LAST))

BODY = "body"  # the role of all maps together, where they are coded


@dataclass(frozen=True)
class LinearInfo:
    """A linear map of a model."""

    name: str  # of the module, e.g. ``bert.encoder.layer.0.attention.self.query``
    role: str  # ``"attention"`` or ``"ffn"``
    last: bool  # whether it is the last map of a feed-forward block, W2, whose transpose has the shape of W1
    shape: tuple[int, int]  # (outputs, inputs)


@dataclass(frozen=True)
class LinearOutcome:
    """The result for the linear maps of one role. Biases are not counted."""

    role: str  # ``"attention"``, ``"ffn"``, or ``"body"`` for all maps
    shape: str  # n1 x m1 of the left factors, as the user gave it; or bits of an entry
    maps: int
    parameters_before: int  # entries of their weights
    parameters_after: int  # entries of their factors
    bytes_before: int
    bytes_after: int
    relative_error: float  # sum of squared errors divided by the sum of squares, over all their weights
    seconds: float
    idle: list[str] = field(default_factory=list)  # on which the output for the text does not depend

    @property
    def coded(self) -> bool:
        """Whether these are all maps, in trellis codes."""
        return self.role == BODY


def count_numbers(form: CompressedEmbedding) -> int:
    """Entries of all factors of a form in any number format, which papers call parameters."""
    leaves = [part for part in form.modules() if isinstance(part, Dense | Scalar)]
    return sum(leaf.num_embeddings * leaf.embedding_dim for leaf in leaves)


def find_linears(model: nn.Module) -> list[LinearInfo]:
    """The linear maps whose names tell their role, including compressed ones and GPT-2's `Conv1D`."""
    found = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | CompressedLinear | Conv1D):
            continue
        sides = module.weight.shape[::-1] if isinstance(module, Conv1D) else (module.out_features, module.in_features)
        for role, last, places in PLACES:
            if any(re.fullmatch(rf"(.*\.)?\d+\.({place})", name) for place in places):
                found.append(LinearInfo(name, role, last, (int(sides[0]), int(sides[1]))))
                break
    return found


def right_shape(info: LinearInfo, shapes: LinearShapes) -> tuple[int, int]:
    """Rows and columns, m2 and n2, of the right factors of a map; a ValueError if a map can't have such factors."""
    shape = shapes.roles[info.role]
    sides = shape if info.last else shape[::-1]  # for the outputs, then for the inputs
    left = []
    for side, whole, what in zip(sides, info.shape, ("outputs", "inputs"), strict=True):
        part = side * whole if isinstance(side, Fraction) else side
        if part != int(part):
            raise ValueError(
                f"{side} of the {whole} {what} of {info.name} is not a whole number; give another fraction or a number"
            )
        check_divides(int(part), whole, f"the {what} of {info.name} ({info.role} is n1 x m1)")
        left.append(int(part))
    rows, width = info.shape[0] // left[0], info.shape[1] // left[1]
    most = most_terms(*info.shape, rows, width)
    if shapes.terms > most:
        raise ValueError(
            f"{most} terms with these factors represent {info.name} exactly, got {shapes.terms}; give at most {most}"
        )
    return rows, width


def plan_linears(model: PreTrainedModel, shapes: LinearShapes) -> dict[LinearInfo, CompressedEmbedding]:
    """Each chosen map with the empty form that will store it, on the meta device.

    Raises:
        ValueError: If the model has no maps of a role, a map is not a plain linear map, or a shape does not divide it.
    """
    found = [info for info in find_linears(model) if info.role in shapes.roles]
    for role in shapes.roles:
        if not any(info.role == role for info in found):
            raise ValueError(
                f"{type(model).__name__} has no {role} maps that can be found by their names; leave out {role}"
            )
    plan = {}
    with torch.device("meta"):
        for info in found:
            check_linear(model, info.name)
            plan[info] = empty_kronecker(*info.shape, *right_shape(info, shapes), shapes.terms, shapes.factors)
    return plan


def compress_linears(
    model: PreTrainedModel, shapes: LinearShapes | None, device: str | None = None, progress: bool = False
) -> tuple[dict[str, dict[str, Any]], list[LinearOutcome]]:
    """Fit the chosen linear maps on a device, by default where they are, and install the results.

    Returns:
        Name of the map, relative to the base model -> config of its form; and one result for each role.

    Raises:
        ValueError: As `plan_linears`; the model is unchanged then.
    """
    if shapes is None:
        return {}, []
    plan, forms = plan_linears(model, shapes), {}
    totals: dict[str, Any] = {role: Counter() for role in shapes.roles}
    for info in Bar(plan, desc="linear maps", disable=not progress):
        start = time.perf_counter()
        weight = model.get_parameter(f"{info.name}.weight").detach()
        form = _fit_map(weight if device is None else weight.to(device), right_shape(info, shapes), shapes)
        error = (form.dense().detach().to(weight.device, torch.float64) - weight).square().sum()
        totals[info.role].update(
            maps=1,
            parameters_before=weight.numel(),
            parameters_after=count_numbers(form),
            bytes_before=weight.numel() * weight.itemsize,
            bytes_after=form.total_bits() // 8,
            squared_error=float(error),
            squares=float(weight.double().square().sum()),
            seconds=time.perf_counter() - start,
        )
        install_linear(model, info.name, form.to(weight.device, weight.dtype))
        forms[info.name.removeprefix(base_prefix(model))] = form.config()
    written = shapes.to_dict()
    outcomes = []
    for role, total in totals.items():
        error = total.pop("squared_error") / total.pop("squares")
        outcomes.append(LinearOutcome(role=role, shape=written[role], relative_error=error, **total))
    return forms, outcomes


def _fit_map(weight: Tensor, right: tuple[int, int], shapes: LinearShapes) -> CompressedEmbedding:
    form = fit_kronecker(weight.float(), *right, shapes.terms, shapes.factors).round_to_stored()
    if not all(bool(tensor.isfinite().all()) for tensor in form.parameters()):
        raise ValueError(f"a fitted factor is too large for float16: a weight reaches {float(weight.abs().max()):.3g}")
    return form
