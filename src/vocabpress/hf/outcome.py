"""What a compression did: the figures that the command line prints and the model card repeats."""

from dataclasses import dataclass

from vocabpress.hf.linears import LinearOutcome


@dataclass(frozen=True)
class Report:
    """What a compression did and what it cost. Sizes are bytes of saved tensors and files.

    `body` names what the body is quantised with, in the same step or before.
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
    budget: str
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
