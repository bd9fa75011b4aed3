"""What a compression did: the figures that the command line prints, and that the model card is made of."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vocabpress.budget import Budget
from vocabpress.hf.linears import LinearOutcome

REPORT = "vocabpress.json"  # in the folder of a compressed checkpoint


@dataclass(frozen=True)
class Recovered:
    """What was trained after a compression, for the card.

    Attributes:
        task: Whose labelled rows it was trained on; None where it was text.
        mode: ``"table"`` or ``"model"``.
        steps: Of training.
        training_sequences: Or rows.
        held_out_sequences: On which it was judged.
        figures: Name of a loss or a metric -> before and after.
    """

    task: str | None
    mode: str
    steps: int
    training_sequences: int
    held_out_sequences: int
    figures: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Report:
    """What a compression did and what it cost. Sizes are bytes of saved tensors and files.

    `body` names what the body is quantised with, in the same step or before; `base_model` is the original's id on the
    hub, where it is known; `recovered` lists what was trained afterwards, and errors of rows are those after it.
    """

    source_name: str
    output: str
    architecture: str
    table: str
    num_embeddings: int
    embedding_dim: int
    dtype: str
    method: str
    settings: dict[str, object]
    budget: Budget
    seed: int
    weighted_by: str
    table_bytes_before: int
    table_bytes_after: int
    model_bytes_before: int
    model_bytes_after: int
    ratio_to_float32: float
    ratio_to_stored: float
    bits_per_weight: float
    relative_error: float
    mean_cosine: float
    weighted_relative_error: float | None
    weighted_mean_cosine: float | None
    linears: list[LinearOutcome]
    seconds: float
    body: str | None = None
    base_model: str | None = None
    command: str = ""
    version: str = ""
    recovered: list[Recovered] = field(default_factory=list)


def save_report(report: Report, folder: Path) -> None:
    """Write a report beside the checkpoint that it is of."""
    (folder / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


def load_report(folder: Path) -> Report | None:
    """The report of a compressed checkpoint; None where there is none, or one of another version."""
    try:
        told: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        told["budget"] = Budget.read(told["budget"])
        linears = [LinearOutcome(**part) for part in told.pop("linears")]
        recovered = [Recovered(**part) for part in told.pop("recovered")]
        return Report(**told, linears=linears, recovered=recovered)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
