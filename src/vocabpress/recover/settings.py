"""What can be chosen of a recovery, and what comes out of one."""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

MODES = ("table", "model")
PRECISIONS = ("float32", "bfloat16")
TERMS = ("embedding", "hidden", "attention", "ffn", "logits", "student")
# What `--objective` says, as fields of Recovery.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "relative": {},
    "kroneckerbert": {"hidden": 0.0, "ffn": 1.0, "normalised": False},
}
# Of fields that came later: at their defaults they are not written, so that what was named before keeps its name.
LATER = {"later": True}


@dataclass(frozen=True)
class Recovery:
    """How a compressed model is trained against its original.

    Attributes:
        mode: ``"table"`` trains the table alone (decoders, bases, scales, biases), the body frozen; ``"model"`` trains
            the body too, factors of linear maps included. Codes of tokens are never trained.
        steps: How many the optimiser takes, at most.
        batch_size: Sequences a step and process.
        max_length: Tokens of a sequence.
        learning_rate: The step of Adam relative to each tensor's root mean square, as in Adafactor, at its peak after
            a warm-up over a twentieth of the steps; then linear to zero. One number then fits scales, decoders and
            bodies, whose entries differ by orders of magnitude.
        embedding: Weight of the error of the embedding layer's output.
        hidden: The same of each layer's output.
        attention: The same of the attention scores before the softmax; 0 for models that keep them to themselves.
        logits: Weight of the KL divergence of the predictions, where the model has a head.
        held_out: Sequences that are never trained on, at most a tenth of all.
        evaluate_every: Steps between looks at them; a checkpoint is written then.
        patience: Looks without improvement after which training stops.
        precision: ``"float32"``, or ``"bfloat16"`` autocast.
        ffn: Weight of the error of the outputs of the feed-forward blocks.
        student: Weight of the student's own loss where there are labels: those of a task, or the text's own.
        language_model: Whether text has labels of its own: tokens that are masked (15 %, as in BERT) where the model is
            a masked language model, the next tokens where it is a causal one.
        normalised: Whether errors are relative to the teacher's numbers, and layers averaged; see `objective`.

    Raises:
        ValueError: If a value is out of range.
    """

    mode: Literal["table", "model"] = "table"
    steps: int = 400
    batch_size: int = 16
    max_length: int = 128
    learning_rate: float = 0.01
    embedding: float = 1.0
    hidden: float = 1.0
    attention: float = 1.0
    logits: float = 1.0
    held_out: int = 256
    evaluate_every: int = 50
    patience: int = 4
    precision: Literal["float32", "bfloat16"] = "float32"
    ffn: float = field(default=0.0, metadata=LATER)
    student: float = field(default=1.0, metadata=LATER)
    language_model: bool = field(default=False, metadata=LATER)
    normalised: bool = field(default=True, metadata=LATER)

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise ValueError(f"unknown mode {self.mode!r}; choose from {', '.join(MODES)}")
        if self.precision not in PRECISIONS:
            raise ValueError(f"unknown precision {self.precision!r}; choose from {', '.join(PRECISIONS)}")
        for name in ("steps", "batch_size", "held_out", "evaluate_every", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.max_length < 4:
            raise ValueError(f"max_length must be at least 4, got {self.max_length}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}; try 0.01")
        if min(self.weights.values()) < 0:
            raise ValueError(f"the weights of the loss must not be negative, nor all zero; got {self.weights}")

    @property
    def weights(self) -> dict[str, float]:
        """Term of the loss -> its weight."""
        return {name: getattr(self, name) for name in TERMS}

    def check_terms(self, labelled: bool) -> None:
        """Refuse weights of which none counts.

        Args:
            labelled: Whether there are labels, without which the student has no loss of its own.

        Raises:
            ValueError: If nothing would be trained for.
        """
        weights = {name: weight for name, weight in self.weights.items() if labelled or name != "student"}
        if not any(weights.values()):
            raise ValueError(f"the weights of the loss must not be negative, nor all zero; got {weights}")

    def told(self) -> dict[str, Any]:
        """As JSON, without the fields that came later where they are at their defaults."""
        silent = [f.name for f in fields(self) if "later" in f.metadata and getattr(self, f.name) == f.default]
        return {name: value for name, value in asdict(self).items() if name not in silent}


@dataclass(frozen=True)
class RecoveryReport:
    """What a recovery did.

    Attributes:
        output: The folder written.
        task: Whose labelled rows were trained on; None for text.
        mode: What was trained.
        trained: Numbers that were trained.
        steps: Taken, those of earlier, interrupted runs included.
        stopped_early: Whether the held-out loss stopped improving first.
        kept_input: Whether the result was no better than the input on held-out text, which was then kept.
        held_out_before: Weighted loss on held-out text, of the input.
        held_out_after: The same of what was written, read back from the disk; never larger.
        terms_before: The loss's terms, unweighted.
        terms_after: The same of what was written.
        training_sequences: At hand.
        held_out_sequences: Set aside.
        table_bytes: The same before and after.
        metrics_before: On the task's development rows, which nothing was chosen by.
        metrics_after: The same of what was written.
        seconds: Spent on training, those of earlier, interrupted runs included.
    """

    output: str
    task: str | None
    mode: str
    trained: int
    steps: int
    stopped_early: bool
    kept_input: bool
    held_out_before: float
    held_out_after: float
    terms_before: dict[str, float]
    terms_after: dict[str, float]
    training_sequences: int
    held_out_sequences: int
    table_bytes: int
    metrics_before: dict[str, float]
    metrics_after: dict[str, float]
    seconds: float
