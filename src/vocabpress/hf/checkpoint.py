"""Load models and tokenizers from their folders; errors are one line."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils.quantization_config import QuantizationConfigMixin

from vocabpress.hf.folders import weight_files
from vocabpress.hf.inner import check_quantised, method_of
from vocabpress.hf.tables import input_table_name
from vocabpress.registration import QUANT_METHOD


def load_model(
    folder: Path,
    trust_remote_code: bool = False,
    quantised: bool = False,
    body: QuantizationConfigMixin | None = None,
) -> PreTrainedModel:
    """Load a model as the class in its config, with its heads, in the dtype of the checkpoint.

    Args:
        folder: Folder of the checkpoint.
        trust_remote_code: Whether code in the folder may run, for models that transformers does not have. Pickled
            weights (.bin) count as code.
        quantised: Whether the body may be quantised already by another library.
        body: Config to quantise the body with.

    Raises:
        ValueError: If transformers can't read the folder, it is compressed already, or it has no token table.
    """
    config = _read_config(folder, trust_remote_code)
    already = getattr(config, "quantization_config", None)
    if already is not None and (not quantised or method_of(already) == QUANT_METHOD):
        raise ValueError(f"{folder} is compressed or quantised already; start from the original checkpoint")
    if already is not None and body is not None:
        raise ValueError(
            f"the body of {folder} is quantised by {method_of(already)} already; leave out the option for its body"
        )
    options = {} if body is None else {"quantization_config": body}
    model, missing = _from_pretrained(folder, _class_of(config), "auto", trust_remote_code, **options)
    if already is not None or body is not None:
        check_quantised(model, method_of(body or already))
    table = f"{input_table_name(model)}.weight"
    if table in missing:  # transformers initialises it at random
        raise ValueError(f"the weights in {folder} have no {table}; does config.json belong to another model?")
    return model


def _from_pretrained(
    folder: Path, loader: Any, dtype: Any, trust_remote_code: bool = False, **options: Any
) -> tuple[PreTrainedModel, set[str]]:
    """A model, and the keys that its files lack."""
    files = weight_files(folder)
    if files and files[0].suffix != ".safetensors" and not trust_remote_code:
        raise ValueError(
            f"{folder} has its weights as a pickle, {files[0].name}, which can hold code; save it as safetensors first "
            "(from_pretrained, then save_pretrained), or allow it with trust_remote_code=True or --trust-remote-code"
        )
    options |= {"dtype": dtype, "local_files_only": True, "trust_remote_code": trust_remote_code}
    with _one_line_errors(folder):
        model, info = loader.from_pretrained(folder, output_loading_info=True, **options)
    return model, set(info["missing_keys"])


def _read_config(folder: Path, trust_remote_code: bool = False) -> Any:
    with _one_line_errors(folder):
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _class_of(config: Any) -> Any:
    names = config.architectures or []
    for name in names:
        known = getattr(transformers, name, None)
        if isinstance(known, type) and issubclass(known, PreTrainedModel):
            return known
    for auto, code in getattr(config, "auto_map", {}).items():  # such as "modeling_own.OwnModel"
        if isinstance(code, str) and code.rpartition(".")[2] in names:
            return getattr(transformers, auto)
    return AutoModel


def named_class(folder: Path) -> Any:
    """The class of transformers in a checkpoint's config, or `AutoModel`; a ValueError if the config can't be read."""
    return _class_of(_read_config(folder))


def empty_model(folder: Path) -> PreTrainedModel:
    """The model of an original on the meta device, without its weights; a ValueError if transformers can't make it."""
    config = _read_config(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise ValueError(f"{folder} is compressed or quantised already; start from the original checkpoint")
    loader = _class_of(config)
    with _one_line_errors(folder), torch.device("meta"):
        return AutoModel.from_config(config) if loader is AutoModel else loader(config)


def open_model(folder: Path, loader: Any = AutoModel, whole: bool = True, dtype: Any = "float32") -> PreTrainedModel:
    """Load a checkpoint, compressed or not, ready to run.

    Args:
        folder: Folder of the checkpoint.
        loader: An auto class of transformers, such as ``AutoModelForMaskedLM``.
        whole: Whether every weight must be in the checkpoint; False to train a new head.
        dtype: A dtype or its name, or ``"auto"`` for that of the checkpoint.

    Raises:
        ValueError: If transformers can't read the folder, its weights are pickled, or one is missing.
    """
    model, missing = _from_pretrained(folder, loader, dtype)
    lost = sorted(key for key in missing if "pooler" not in key)
    if whole and lost:
        raise ValueError(f"{folder} has no {lost[0]}; {loader.__name__} would initialise it at random")
    return model.eval()


def open_tokenizer(folder: Path) -> Any:
    """The tokenizer of a model.

    Raises:
        ValueError: If there is none, or it has only special tokens. Some classes of transformers load without a
            vocabulary, and turn every text into unknown tokens.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError):
        raise ValueError(f"{folder} has no tokenizer that transformers can load") from None
    if len(tokenizer) - len(set(tokenizer.all_special_ids)) < 2:  # T5's has a space besides
        raise ValueError(f"{folder} has no tokenizer that transformers can load: its files have no vocabulary")
    return tokenizer


@contextmanager
def _one_line_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # a broken checkpoint makes transformers and safetensors raise almost anything
        if "trust_remote_code" in str(error):
            raise ValueError(
                f"{folder} needs code that lies beside its weights; read it, then allow it with trust_remote_code=True "
                "or --trust-remote-code (in vocabpress compress and inspect)"
            ) from None
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"transformers can't load {folder}: {reason}") from None
