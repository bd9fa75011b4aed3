"""The architectures of transformers, and the class of each that is tested."""

import importlib
import inspect
from dataclasses import dataclass
from functools import cache
from typing import Any

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# The usual class with a head, in this order; without any of these, the base model is tested.
TASKS = (
    "CAUSAL_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_TEXT_TO_TEXT",
    "MULTIMODAL_LM",
    "SPEECH_SEQ_2_SEQ",
    "MASKED_LM",
    "TEXT_TO_WAVEFORM",
    "TEXT_TO_SPECTROGRAM",
    "PRETRAINING",
    "VISUAL_QUESTION_ANSWERING",
    "DOCUMENT_QUESTION_ANSWERING",
    "TABLE_QUESTION_ANSWERING",
    "QUESTION_ANSWERING",
    "SEQUENCE_CLASSIFICATION",
    "RETRIEVAL",
    "RNNT",
    "TDT",
    "CTC",
)


@dataclass(frozen=True)
class Architecture:
    """One entry of transformers' auto mapping.

    Attributes:
        model_type: As in config.json.
        config_class: Its config.
        model_class: The tested class; None if the config is a part that no model class is built from.
    """

    model_type: str
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel] | None


def model_types() -> list[str]:
    """All model types of the installed transformers, in alphabetical order, without those of vocabpress."""
    return sorted((name for name in CONFIG_MAPPING if not name.startswith("vocabpress")), key=str.lower)


def architecture(model_type: str) -> Architecture:
    """The architecture of a model type.

    Raises:
        ImportError: If its code needs a package that is not installed.
    """
    config_class: Any = CONFIG_MAPPING[model_type]
    listed = [_mapping(f"MODEL_FOR_{task}_MAPPING_NAMES").get(model_type) for task in TASKS]
    listed.append(_mapping("MODEL_MAPPING_NAMES").get(model_type))
    classes = [_class(config_class, found) for found in listed if found is not None]
    own = [cls for cls in classes if cls is not None and cls.config_class is config_class]  # not the class of a part
    found = (own or [cls for cls in classes if cls is not None] or [_unlisted(config_class)])[0]
    return Architecture(model_type, config_class, found)


@cache
def _mapping(name: str) -> dict[str, Any]:
    return dict(getattr(modeling_auto, name, None) or {})


def _class(config_class: type[PreTrainedConfig], found: str | tuple[str, ...]) -> type[PreTrainedModel] | None:
    """A class by its name; the first of several. Some names exist only in the mapping."""
    name = found if isinstance(found, str) else found[0]
    return getattr(transformers, name, None) or getattr(_modeling(config_class), name, None)


def _modeling(config_class: type[PreTrainedConfig]) -> Any:
    """The module with the models of a config."""
    return importlib.import_module(config_class.__module__.replace(".configuration_", ".modeling_"))


def _unlisted(config_class: type[PreTrainedConfig]) -> type[PreTrainedModel] | None:
    """The class of a config that no auto mapping lists: the one that generates, else the first that has a forward."""
    try:
        module = _modeling(config_class)
    except ModuleNotFoundError:
        return None
    classes = [
        cls
        for _, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, PreTrainedModel)
        and cls.config_class is config_class
        and "forward" in vars(cls)
        and cls.__module__ == module.__name__
    ]
    heads = [cls for cls in classes if cls.__name__.endswith(("ForConditionalGeneration", "ForCausalLM"))]
    return (heads or classes or [None])[0]
