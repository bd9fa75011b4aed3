"""The student and its teacher: loaded, checked against each other, trained, written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from vocabpress.embeddings import CompressedEmbedding
from vocabpress.evaluate.finetuned.training import Headed, padded, quiet
from vocabpress.evaluate.pooling import is_sentence_encoder, pooling_of
from vocabpress.hf.checkpoint import named_class, open_model, open_tokenizer
from vocabpress.hf.companions import copy_companions
from vocabpress.hf.inner import is_quantised
from vocabpress.hf.modules import TiedHead, TokenEmbedding, owned_tables
from vocabpress.hf.tables import input_table_name
from vocabpress.hf.writing import save
from vocabpress.recover.lesson import Source
from vocabpress.recover.listen import record_attention, record_ffn
from vocabpress.recover.objective import held_out_terms
from vocabpress.recover.settings import Recovery
from vocabpress.recover.text import Sequences
from vocabpress.recover.thaw import freeze, hold, thaw

CLASSIFIERS = set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values())


@dataclass
class Pair:
    """A compressed model, ``student``, and its original, ``teacher``, both in float32 on one device.

    Attributes:
        loader: The student's class, or the teacher's if that has a task's head.
        teacher: Without gradients.
    """

    folder: Path
    original: Path
    loader: Any
    student: PreTrainedModel
    teacher: PreTrainedModel
    tokenizer: Any
    settings: Recovery
    device: torch.device

    def to(self, device: torch.device) -> None:
        """Move both models."""
        for model in (self.student, self.teacher):
            model.to(device)  # pyright: ignore[reportArgumentType]
        self.device = device

    def make_trainable(self) -> None:
        """Require gradients of the table's parameters, or in mode "model" of all."""
        whole = self.settings.mode == "model"
        for parameter in self.student.parameters():
            parameter.requires_grad_(whole)
        mine = table_of(self.student)
        thaw(mine)
        for table in owned_tables(self.student).values():
            if whole and table is not mine:
                thaw(table, every=True)
                hold(table)
        for parameter in mine.parameters():
            parameter.requires_grad_(True)
        if isinstance(self.student.get_output_embeddings(), TiedHead):
            hold(mine)

    def start_again(self) -> None:
        """Load the student again, as it was before training."""
        self.student = _open_student(self.folder, self.loader, self.teacher).to(self.device)  # pyright: ignore[reportArgumentType]

    def judge(self, sequences: Sequences, student: PreTrainedModel | None = None) -> dict[str, float]:
        """The terms of the loss on the held-out sequences, of the current or of another student."""
        model = self.student if student is None else student
        return held_out_terms(model, self.teacher, sequences, self.settings, self.device, self.pooling)

    @property
    def pooling(self) -> str | None:
        """How states become a sentence embedding; None if the original is no sentence encoder."""
        return pooling_of(self.original) if is_sentence_encoder(self.original) else None

    def set_best(self, best: dict[str, Tensor]) -> bool:
        """Set the student to its best state, with decoders in their stored form.

        Returns:
            Whether there is one, with values that the stored dtypes can represent; others could not be loaded.
        """
        parameters, tables = dict(self.student.named_parameters()), owned_tables(self.student).values()
        for name, tensor in best.items():
            parameters[name].data.copy_(tensor)
        for table in tables:
            freeze(table)
            table.round_to_stored()
        stored = [tensor for table in tables for tensor in table.stored_tensors().values()]
        return bool(best) and all(bool(tensor.isfinite().all()) for tensor in stored if tensor.is_floating_point())

    def write(self, target: Path, provenance: dict[str, Any] | None) -> PreTrainedModel:
        """Write the student in the dtypes of its checkpoint, and return it as read back from the disk.

        ``provenance``, how it was trained, goes to the config, with an earlier one inside.
        """
        options: dict[str, Any] = {"dtype": "auto", "local_files_only": True, "output_loading_info": True}
        with quiet():
            fresh, _ = self.loader.from_pretrained(self.folder, **options)
        fresh.load_state_dict(self.student.state_dict())  # strict: same names and shapes
        for table in owned_tables(fresh).values():
            table.round_to_stored()
        if provenance is not None:
            fitted_by = fresh.hf_quantizer.quantization_config.fitted_by
            earlier = fitted_by.get("recovered")
            fitted_by["recovered"] = provenance | ({"before": earlier} if earlier else {})
        save(fresh, target)
        copy_companions(self.folder, target)
        again = open_model(target, named_class(target)).to(self.device)  # pyright: ignore[reportArgumentType]
        return _record(again, self.settings)


def table_of(model: PreTrainedModel) -> CompressedEmbedding:
    """The compressed input table of a model."""
    module: Any = model.get_submodule(input_table_name(model))
    return module.table


def rows_of(model: PreTrainedModel) -> Tensor:
    """The table of an original, (V, d)."""
    module: Any = model.get_submodule(input_table_name(model))
    return module.weight.detach()


def _record(model: PreTrainedModel, settings: Recovery) -> PreTrainedModel:
    if settings.attention > 0:
        record_attention(model)
    if settings.ffn > 0:
        record_ffn(model)
    return model


def open_pair(folder: Path, original: Path, settings: Recovery, source: Source) -> Pair:
    """Load both models, and check that one can be trained against the other.

    With a task, the student gets the teacher's prediction layer: everything above the base model, and its pooler.

    Raises:
        ValueError: If the first is not compressed or the second is, they differ in vocabulary or shape, or the teacher
            is not fine-tuned for the task.
    """
    teacher = open_model(original, named_class(original))
    if isinstance(teacher.get_submodule(input_table_name(teacher)), TokenEmbedding):
        raise ValueError(f"the teacher {original} is compressed itself; give the original")
    loader = named_class(folder)
    if source.task is not None:
        check_classifier(teacher, f"the teacher {original}", source)
        if AutoConfig.from_pretrained(folder).model_type != teacher.config.model_type:
            raise _misfit(original, folder, "shape")
        head = {name: getattr(teacher.config, name) for name in ("id2label", "label2id", "pad_token_id")}
        kind = "regression" if source.classes == 1 else "single_label_classification"
        loader = Headed(type(teacher), head | {"problem_type": kind})
    student = _open_student(folder, loader, teacher)
    if not isinstance(student.get_submodule(input_table_name(student)), TokenEmbedding):
        raise ValueError(f"{folder} is not compressed; run vocabpress compress first")
    if settings.mode == "model" and any(is_quantised(parameter) for parameter in student.parameters()):
        raise ValueError(f"the body of {folder} is quantised, and its codes don't train; train the table alone")
    tokenizer = open_tokenizer(folder)
    mine = table_of(student)
    shape, theirs = tuple(rows_of(teacher).shape), (mine.num_embeddings, mine.embedding_dim)
    if open_tokenizer(original).get_vocab() != tokenizer.get_vocab() or shape[0] != theirs[0]:
        raise _misfit(original, folder, "vocabulary")
    depths = [getattr(model.config.get_text_config(), "num_hidden_layers", None) for model in (student, teacher)]
    if type(student) is not type(teacher) or shape != theirs or depths[0] != depths[1]:
        raise _misfit(original, folder, "shape")
    teacher.requires_grad_(False)
    for model in (student, teacher):
        _record(model, settings)
    if source.task is not None:
        tokenizer = padded(tokenizer, folder)
    return Pair(folder, original, loader, student, teacher, tokenizer, settings, torch.device("cpu"))


def _misfit(original: Path, folder: Path, what: str) -> ValueError:
    return ValueError(f"the teacher {original} has another {what} than {folder}; give the model it was made of")


def check_classifier(model: PreTrainedModel, what: str, source: Source) -> None:
    """Raise a ValueError if a model was not fine-tuned for the task; ``what`` names the model."""
    labels = model.config.num_labels
    if type(model).__name__ not in CLASSIFIERS or labels != source.classes:
        raise ValueError(
            f"{what} is a {type(model).__name__} with {labels} labels, {source.task} needs a "
            f"sequence classifier with {source.classes}; vocabpress evaluate --task {source.task} --keep DIR makes one"
        )


def _open_student(folder: Path, loader: Any, teacher: PreTrainedModel) -> PreTrainedModel:
    if not isinstance(loader, Headed):
        return open_model(folder, loader)
    with quiet():  # the checkpoint has no head
        student = open_model(folder, loader, whole=False)
    theirs = dict(teacher.named_parameters())
    for name, parameter in student.named_parameters():
        above = not name.startswith(f"{student.base_model_prefix}.") or ".pooler." in name
        if above and name in theirs and theirs[name].shape == parameter.shape:
            parameter.data.copy_(theirs[name].data)
    return student
