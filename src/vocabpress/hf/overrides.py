"""Methods of a model that are ours once its tables are compressed; they stand in the model itself, not in its class."""

from types import MethodType
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from vocabpress.hf.resize import resize_token_embeddings

PEFT_LOOKS_FOR = "embeddings.word_embeddings"


def get_submodule(model: PreTrainedModel, target: str) -> nn.Module:
    """As torch's, but that the name under which PEFT looks for a token embedding first finds it in any model.

    PEFT's prompt tuning would else look for a parameter with a row for each token, which a compressed table lacks.
    """
    try:
        return nn.Module.get_submodule(model, target)
    except AttributeError:
        if target != PEFT_LOOKS_FOR:
            raise
        return model.get_input_embeddings()


def half(model: PreTrainedModel, *arguments: Any) -> Any:
    """As torch's; transformers has it of models alone that are not quantised, and here it is the tables that are."""
    return nn.Module.half(model, *arguments)


def single(model: PreTrainedModel, *arguments: Any) -> Any:
    """As `half`, for ``float``."""
    return nn.Module.float(model, *arguments)


OURS = {"resize_token_embeddings": resize_token_embeddings, "get_submodule": get_submodule}
OF_PLAIN_BODIES = {"half": half, "float": single}


def override(model: PreTrainedModel, plain_body: bool) -> None:
    """Give a model our methods.

    Args:
        model: With compressed tables.
        plain_body: Whether no library has quantised the rest.
    """
    restore(model)
    for name, method in (OURS | (OF_PLAIN_BODIES if plain_body else {})).items():
        vars(model)[name] = MethodType(method, model)


def restore(model: PreTrainedModel) -> None:
    """Give a model its class' methods back."""
    for name in OURS | OF_PLAIN_BODIES:
        vars(model).pop(name, None)
