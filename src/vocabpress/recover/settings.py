"""The settings and the report of a recovery."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

from pydantic import Field

from vocabpress.settings import AtLeast1, NotNegative, Positive, check_settings

TERMS = ("embedding", "hidden", "attention", "ffn", "logits", "sentence", "student")
# Values of `--objective`, as fields of Recovery.
OBJECTIVES: dict[str, dict[str, Any]] = {
    "relative": {},
    "kroneckerbert": {"hidden": 0.0, "ffn": 1.0, "normalised": False},
}
# Newer fields. They are not written at their defaults, so that runs of earlier versions have the same identity.
NEWER = ("ffn", "sentence", "student", "language_model", "stream", "normalised", "minutes")


@dataclass(frozen=True, kw_only=True)
class LessonSettings:
    """How text, or the rows of a task, become sequences and batches.

    Attributes:
        batch_size: Sequences a step and process.
        max_length: Tokens of a sequence.
        held_out: Sequences that are never trained on, at most a tenth of all.
        language_model: Whether text has labels of its own: tokens that are masked (15 %, as in BERT) if the model is a
            masked language model, the next tokens if it is a causal one.
        stream: Whether lines that follow one another are read together: by a causal language model as one stream that
            is cut into sequences of ``max_length``, by other models in part as passages. Without, each line is a
            sequence.

    Raises:
        ValueError: If a value is out of range.
    """

    batch_size: AtLeast1 = 16
    max_length: Annotated[int, Field(ge=4)] = 128
    held_out: AtLeast1 = 256
    language_model: bool = False
    stream: bool = False

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Recovery(LessonSettings):
    """How a compressed model is trained against its original.

    Attributes:
        mode: ``"table"`` trains the table alone (decoders, bases, scales, biases), the body frozen; ``"model"`` trains
            the body too, factors of linear maps included. Codes of tokens are never trained.
        steps: Steps of the optimiser, at most.
        minutes: Minutes of training, at most; None sets no limit. The learning rate falls with the time, too, so that
            the end is no surprise; such a run has other results on another machine.
        learning_rate: The step of Adam relative to each tensor's root mean square, as in Adafactor, at its peak after
            a warm-up over a twentieth of the steps; then linear to zero. One number then fits scales, decoders and
            bodies, whose entries differ by orders of magnitude.
        embedding: Weight of the error of the embedding layer's output.
        hidden: Weight of the error of each layer's output.
        attention: Weight of the error of the attention scores before the softmax; 0 for models that do not use
            transformers' attention interface.
        ffn: Weight of the error of the outputs of the feed-forward blocks.
        logits: Weight of the KL divergence of the predictions, if the model has a head.
        sentence: Weight of the error of sentence embeddings and of their inner products with each other, for models
            that sentence-transformers knows; see `objective`.
        student: Weight of the student's own loss if there are labels: those of a task, or the text's own.
        normalised: Whether errors are relative to the teacher's numbers, and layers averaged; see `objective`.
        evaluate_every: Steps between evaluations on the held-out sequences; each writes a checkpoint.
        patience: Evaluations without improvement after which training stops.
        precision: ``"float32"``, or ``"bfloat16"`` autocast.

    Raises:
        ValueError: If a value is out of range.
    """

    mode: Literal["table", "model"] = "table"
    steps: AtLeast1 = 400
    minutes: Positive | None = None
    learning_rate: Positive = 0.01
    embedding: NotNegative = 1.0
    hidden: NotNegative = 1.0
    attention: NotNegative = 1.0
    ffn: NotNegative = 0.0
    logits: NotNegative = 1.0
    sentence: NotNegative = 0.0
    student: NotNegative = 1.0
    normalised: bool = True
    evaluate_every: AtLeast1 = 50
    patience: AtLeast1 = 4
    precision: Literal["float32", "bfloat16"] = "float32"

    @property
    def weights(self) -> dict[str, float]:
        """Term of the loss -> its weight."""
        return {name: getattr(self, name) for name in TERMS}

    def check_terms(self, labelled: bool) -> None:
        """Refuse weights that are all zero; that of the student's own loss counts only if there are labels.

        Raises:
            ValueError: If nothing would be minimised.
        """
        weights = {name: weight for name, weight in self.weights.items() if labelled or name != "student"}
        if not any(weights.values()):
            raise ValueError(f"the weights of the loss are all zero; got {weights}")

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON, without newer ones that have their defaults."""
        at_default = {each.name for each in fields(self) if getattr(self, each.name) == each.default}
        return {name: value for name, value in asdict(self).items() if name not in NEWER or name not in at_default}


@dataclass(frozen=True)
class RecoveryReport:
    """The outcome of a recovery.

    Attributes:
        output: The folder written.
        task: The task whose labelled rows were trained on; None for text.
        mode: What was trained.
        trained: Number of trained values.
        steps: Steps taken, those of earlier, interrupted runs included.
        stopped_early: Whether the held-out loss stopped improving first.
        kept_input: Whether the input was written, because training did not lower the held-out loss.
        held_out_before: Weighted loss of the input on held-out sequences.
        held_out_after: The same of what was written, read back from the disk; never larger.
        terms_before: The loss's terms, unweighted.
        terms_after: The same of what was written.
        training_sequences: Sequences for training.
        held_out_sequences: Sequences for evaluation.
        table_bytes: The same before and after.
        metrics_before: Metrics on the task's development rows, which choose nothing.
        metrics_after: The same of what was written.
        seconds: Time of training, that of earlier, interrupted runs included.
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
