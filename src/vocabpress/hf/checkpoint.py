"""Loading models and tokenizers from their folders; what goes wrong is an error of one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils.quantization_config import QuantizationConfigMixin

from vocabpress.hf.config import QUANT_METHOD
from vocabpress.hf.folders import weight_files
from vocabpress.hf.inner import check_quantised, method_of
from vocabpress.hf.tables import input_table_name


def load_model(
    folder: Path,
    trust_remote_code: bool = False,
    quantised: bool = False,
    body: QuantizationConfigMixin | None = None,
) -> PreTrainedModel:
    """Load a model as the class that its config names, heads and all, in the dtype of the checkpoint.

    Args:
        folder: Of the checkpoint.
        trust_remote_code: Whether code that lies in the folder may run, where the model is not one of transformers;
            pickled weights (.bin) are code, too.
        quantised: Whether another library may have quantised the body.
        body: What to quantise the body with.

    Raises:
        ValueError: If transformers can't read the folder, it is compressed already, or it has no token table.
    """
    if not trust_remote_code:
        _check_unpickled(folder)
    with _told_in_a_line(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    already = getattr(config, "quantization_config", None)
    if already is not None and (not quantised or method_of(already) == QUANT_METHOD):
        raise ValueError(f"{folder} is compressed or quantised already; start from the original checkpoint")
    if already is not None and body is not None:
        raise ValueError(
            f"the body of {folder} is quantised by {method_of(already)} already, so quantise it no further"
        )
    loader = _class_of(config)
    with _told_in_a_line(folder):
        model, info = loader.from_pretrained(
            folder,
            dtype="auto",
            local_files_only=True,
            output_loading_info=True,
            trust_remote_code=trust_remote_code,
            **({} if body is None else {"quantization_config": body}),
        )
    if already is not None or body is not None:
        check_quantised(model, method_of(body or already))
    table = f"{input_table_name(model)}.weight"
    if table in info["missing_keys"]:  # transformers would go on with random numbers
        raise ValueError(f"the weights in {folder} hold no {table}; is config.json that of another model?")
    return model


def _check_unpickled(folder: Path) -> None:
    files = weight_files(folder)
    if files and files[0].suffix != ".safetensors":
        raise ValueError(
            f"{folder} has its weights as a pickle, {files[0].name}, which can hold code; save it as safetensors first "
            "(from_pretrained, then save_pretrained), or allow it (trust_remote_code=True, or --trust-remote-code)"
        )


def _class_of(config: Any) -> Any:
    classes = [getattr(transformers, name, None) for name in config.architectures or []]
    known = [cls for cls in classes if isinstance(cls, type) and issubclass(cls, PreTrainedModel)]
    remote = [auto for auto, code in getattr(config, "auto_map", {}).items() if _is_class(code, config.architectures)]
    return known[0] if known else getattr(transformers, remote[0]) if remote else AutoModel


def _is_class(code: Any, names: list[str] | None) -> bool:
    """Whether code such as ``modeling_own.OwnModel`` is that of a class that a config names."""
    return isinstance(code, str) and code.rpartition(".")[2] in (names or [])


def named_class(folder: Path) -> Any:
    """The class of transformers that a checkpoint's config names; `AutoModel` where it names none.

    Raises:
        ValueError: If transformers can't read the config.
    """
    with _told_in_a_line(folder):
        return _class_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def empty_model(folder: Path) -> PreTrainedModel:
    """The model that a checkpoint's config names, on the meta device: modules without numbers.

    Raises:
        ValueError: If transformers can't make it, or it is compressed or quantised.
    """
    with _told_in_a_line(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{folder} is compressed or quantised already; start from the original checkpoint")
    loader = _class_of(config)
    with _told_in_a_line(folder), torch.device("meta"):
        return AutoModel.from_config(config) if loader is AutoModel else loader(config)


def open_model(folder: Path, loader: Any = AutoModel, whole: bool = True) -> PreTrainedModel:
    """Load a checkpoint, compressed or not, in float32 and ready to run.

    Args:
        folder: Of the checkpoint.
        loader: An auto class of transformers, such as ``AutoModelForMaskedLM``.
        whole: Whether every weight must be in the checkpoint; False where a fresh head is to be trained.

    Raises:
        ValueError: If transformers can't read the folder, its weights are pickled, or one is missing that would be
            random.
    """
    _check_unpickled(folder)
    with _told_in_a_line(folder):
        model, info = loader.from_pretrained(
            folder, dtype="float32", local_files_only=True, output_loading_info=True, trust_remote_code=False
        )
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if whole and missing:
        raise ValueError(f"{folder} holds no {missing[0]}, {loader.__name__} would make it of random numbers")
    return model.eval()


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model.

    Raises:
        ValueError: If there is none. Of some classes transformers makes one of special tokens alone where a folder
            holds no vocabulary; it would turn every text into unknown tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        raise ValueError(f"{folder} has no tokenizer that transformers can load") from None
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < 2:  # T5's has a space besides
        raise ValueError(f"{folder} has no tokenizer that transformers can load: its files hold no vocabulary")
    return tokenizer


@contextmanager
def _told_in_a_line(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a broken checkpoint makes transformers and safetensors raise almost anything
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{folder} needs code that lies beside its weights; read it, then allow it (trust_remote_code=True, or "
                "--trust-remote-code of vocabpress compress and inspect)"
            ) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"transformers can't load {folder}: {reason}") from None
