"""The student and its teacher: opened, checked to fit each other, made trainable, written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.hf.checkpoint import copy_companions, named_class, open_model, open_tokenizer
from vocabpress.hf.compress import save
from vocabpress.hf.modules import TokenEmbedding
from vocabpress.hf.tables import input_table_name
from vocabpress.recover.attention import record_attention
from vocabpress.recover.settings import Recovery
from vocabpress.recover.thaw import freeze, thaw


@dataclass
class Pair:
    """A compressed model and its original, in float32.

    Attributes:
        folder: Of the compressed checkpoint.
        original: Folder of the original.
        student: The compressed model.
        teacher: The original, without gradients.
        tokenizer: Of both.
        device: Where they are.
    """

    folder: Path
    original: Path
    student: PreTrainedModel
    teacher: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device

    @property
    def table(self) -> CompressedEmbedding:
        """The student's table."""
        return _table(self.student)

    def to(self, device: torch.device) -> None:
        """Move both."""
        for model in (self.student, self.teacher):
            model.to(device)  # pyright: ignore[reportArgumentType]
        self.device = device

    def make_trainable(self, mode: str) -> None:
        """Let what the mode trains require gradients: the table's parameters, or all of the model's."""
        for parameter in self.student.parameters():
            parameter.requires_grad_(mode == "model")
        thaw(self.table)
        for parameter in self.table.parameters():
            parameter.requires_grad_(True)


def _table(model: PreTrainedModel) -> CompressedEmbedding:
    module: Any = model.get_submodule(input_table_name(model))
    return module.table


def open_pair(folder: Path, original: Path, settings: Recovery) -> Pair:
    """Open both models and see that one can teach the other.

    Raises:
        ValueError: If the first is not compressed or the second is, or they differ in vocabulary or shape.
    """
    student, teacher = (open_model(place, named_class(place)) for place in (folder, original))
    if not isinstance(student.get_submodule(input_table_name(student)), TokenEmbedding):
        raise ValueError(f"{folder} is not compressed; run vocabpress compress first")
    if isinstance(teacher.get_submodule(input_table_name(teacher)), TokenEmbedding):
        raise ValueError(f"the teacher {original} is compressed itself; give the original")
    tokenizer = open_tokenizer(folder)
    table: Any = teacher.get_submodule(input_table_name(teacher))
    shape, theirs = tuple(table.weight.shape), (_table(student).num_embeddings, _table(student).embedding_dim)
    if open_tokenizer(original).get_vocab() != tokenizer.get_vocab() or shape[0] != theirs[0]:
        raise ValueError(f"the teacher {original} has another vocabulary than {folder}; give the model it was made of")
    depths = [getattr(model.config.get_text_config(), "num_hidden_layers", None) for model in (student, teacher)]
    if type(student) is not type(teacher) or shape != theirs or depths[0] != depths[1]:
        raise ValueError(f"the teacher {original} has another shape than {folder}; give the model it was made of")
    teacher.requires_grad_(False)
    if settings.attention > 0:
        record_attention(student)
        record_attention(teacher)
    return Pair(folder, original, student, teacher, tokenizer, torch.device("cpu"))


def set_best(pair: Pair, best: dict[str, Tensor]) -> None:
    """Give the student its best numbers, and its decoders their form of storage."""
    parameters = dict(pair.student.named_parameters())
    for name, tensor in best.items():
        parameters[name].data.copy_(tensor)
    freeze(pair.table)
    pair.table.round_to_stored()


def write_student(pair: Pair, target: Path, provenance: dict[str, Any]) -> PreTrainedModel:
    """Write the student as the compressed checkpoint was written, in its dtypes; returns it as read back."""
    fresh = named_class(pair.folder).from_pretrained(pair.folder, dtype="auto", local_files_only=True)
    fresh.load_state_dict(pair.student.state_dict())  # strict: the same tensors of the same shapes
    _table(fresh).round_to_stored()
    fresh.hf_quantizer.quantization_config.fitted_by["recovered"] = provenance
    save(fresh, target)
    copy_companions(pair.folder, target)
    page = pair.folder / "README.md"
    if page.is_file():
        (target / "README.md").write_text(page.read_text(encoding="utf-8"), encoding="utf-8")
    again = open_model(target, named_class(target)).to(pair.device)  # pyright: ignore[reportArgumentType]
    if pair.student.config._attn_implementation == pair.teacher.config._attn_implementation != "sdpa":
        record_attention(again)
    return again
