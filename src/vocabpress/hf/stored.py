"""The files of a checkpoint, looked at before anything is loaded from them: what is in them, where they lie, digests.

Files come from anywhere. What they claim must be what they hold, before memory is taken for it.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import revert_weight_conversion

from vocabpress.chunks import chunks
from vocabpress.embeddings import CompressedEmbedding, Rows

DIGESTS = "vocabpress_sha256"
OLD_METADATA = {"format", "vocabpress_format_version"}  # all that files without digests have
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "U8"}  # of dtypes, in safetensors
GROWTH = 16  # bytes of a model in memory over those of its files: float32 of 2 bits
FREE = 2**26  # bytes that are no matter
DAMAGED = "the files are damaged or not those that were saved together; download them again"
Layout = dict[str, str | None]
"""Name of a tensor -> its digest; None where there is none."""


class Entry(NamedTuple):
    """What a header says of a tensor."""

    file: str
    shape: tuple[int, ...]
    dtype: str


def read_headers(files: Sequence[str]) -> tuple[dict[str, Entry], dict[str, str]]:
    """What safetensors files hold, and their metadata; no tensor is read.

    Raises:
        ValueError: If a file is of another format or broken, or two hold a tensor of one name.
    """
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for file in files:
        if not file.endswith(".safetensors"):
            raise ValueError(f"{Path(file).name} is no safetensors file; vocabpress reads weights from those alone")
        try:
            with safe_open(file, "pt") as opened:
                metadata |= opened.metadata() or {}
                for key in opened.keys():  # noqa: SIM118
                    part = opened.get_slice(key)
                    if key in entries:
                        raise ValueError(f"{key} is in two of the checkpoint's files; {DAMAGED}")
                    entries[key] = Entry(file, tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise ValueError(f"can't read {Path(file).name}: {error}; {DAMAGED}") from None
    return entries, metadata


def check_places(files: Iterable[str], model: PreTrainedModel) -> None:
    """See that an index of shards names no file outside the folder of the checkpoint.

    Raises:
        ValueError: If it does.
    """
    folder = str(getattr(model.config, "name_or_path", ""))
    if not os.path.isdir(folder):  # noqa: PTH112 - a hub id; huggingface_hub sees to it
        return
    for file in files:
        if not Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder)):  # noqa: PTH100 - links stay
            raise ValueError(f"the checkpoint in {folder} names a file outside it, {file}; it is not to be trusted")


def check_size(model: nn.Module, files: Iterable[str]) -> None:
    """See that a model, still without memory, will not take far more of it than its files have bytes.

    Raises:
        ValueError: If its config claims sizes that its files do not bear out.
    """
    held = sum(Path(file).stat().st_size for file in files)
    wanted = sum(tensor.numel() * tensor.itemsize for tensor in (*model.parameters(), *model.buffers()))
    if wanted > max(FREE, GROWTH * held):
        raise ValueError(
            f"by its config the model takes {wanted:,} bytes, its files have {held:,}; the config is not theirs, or "
            "the download is incomplete"
        )


def stored_as(name: str, key: str | None, part: str, entries: Mapping[str, Entry]) -> list[str]:
    """The names under which the files may hold a tensor of a table.

    Args:
        name: Of the module, relative to the base model.
        key: The tensor of the table that is stored as ``<name>.weight``.
        part: The tensor's name in the table.
        entries: Of the files.
    """
    end = ".weight" if part == key else f".table.{part}"
    exact = [full for full in entries if f".{full}".endswith(f".{name}{end}")]
    # Some models have other names for their modules in files; transformers knows which.
    return exact or [full for full in entries if full.endswith(end)]


def check_table(name: str, key: str | None, table: CompressedEmbedding, entries: Mapping[str, Entry]) -> None:
    """See that the files hold the tensors of a table, in the shapes and dtypes that its config says.

    Maps are read, because transformers looks at weights before a load is done.

    Args:
        name: Of the module, relative to the base model.
        key: The tensor of the table that is stored as ``<name>.weight``.
        table: Of the config, without numbers.
        entries: Of the files.

    Raises:
        ValueError: If not, or if a map names rows that there are not.
    """
    for item in table.storage():
        found = {full: entries[full][1:] for full in stored_as(name, key, item.name, entries)}
        claimed = (item.shape, NAMES[item.dtype])
        if claimed not in found.values():
            told = " and ".join(f"{dtype} of shape {list(shape)}" for shape, dtype in found.values())
            raise ValueError(
                f"by config.json {item.name} of {name} is {claimed[1]} of shape {list(item.shape)}, the files hold "
                f"{told[:200] or 'no such tensor'}; {DAMAGED}"
            )
        form = table.get_submodule(item.name.rpartition(".")[0])
        if isinstance(form, Rows):
            for full in (full for full, held in found.items() if held == claimed):
                with safe_open(entries[full].file, "pt") as opened:
                    form.check_map(opened.get_tensor(full), full)


def digest(tensor: Tensor) -> str | None:
    """SHA-256 of a tensor's bytes, as safetensors stores them; None where it has none that could be read here.

    By chunks of rows, so that one on another device, or one that is not contiguous, is never copied whole.
    """
    rows = tensor.detach()
    if type(rows) is not Tensor or rows.is_meta:
        return None
    found = hashlib.sha256()
    rows = rows[None] if rows.ndim == 0 else rows
    for part in chunks(len(rows), max(1, rows[:1].numel()), rows.itemsize):
        found.update(rows[part].cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def layout_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of what a ``quantization_config`` says of the layout, as JSON with sorted keys and no spaces."""
    layout = {name: config.get(name) or empty for name, empty in (("tables", {}), ("linears", {}), ("separate", []))}
    return hashlib.sha256(json.dumps(layout, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digests(model: PreTrainedModel, state: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, str]:
    """The metadata that lets a reader see whether a checkpoint is as it was saved.

    Args:
        model: Whose it is.
        state: The tensors that are saved.
        config: The ``quantization_config`` that is saved.
    """
    state = {name: tensor for name, tensor in state.items() if name not in (model._keys_to_ignore_on_save or ())}
    layouts = [_layout(state)]
    # Where transformers names or cuts tensors otherwise in files, both ways to save them are told.
    offloaded = any(tensor.is_meta for tensor in state.values())  # such are read when they are written
    stored = state if offloaded else revert_weight_conversion(model, dict(state))
    if stored.keys() != state.keys():
        layouts.insert(0, _layout(stored))
    return {
        DIGESTS: json.dumps(
            {"config": layout_digest(config), "tensors": layouts}, separators=(",", ":"), sort_keys=True
        )
    }


def _layout(tensors: Mapping[str, Tensor]) -> Layout:
    with ThreadPoolExecutor(_threads()) as pool:  # hashing lets other threads run
        return dict(zip(tensors, pool.map(digest, tensors.values()), strict=True))


def check_digests(entries: Mapping[str, Entry], metadata: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """See that files hold what was saved, bit for bit: every tensor, none besides, and the config's layout.

    Args:
        entries: Of the files.
        metadata: Of the files; without digests, as of files of an older version, nothing is checked.
        config: The ``quantization_config``.

    Raises:
        ValueError: If not; the first tensor that differs is named.
    """
    if DIGESTS not in metadata:
        strange = metadata.keys() - OLD_METADATA
        if strange:  # such as the name of the digests with a flipped bit
            raise ValueError(f"the files have no digests, but {min(strange)!r} in their metadata; {DAMAGED}")
        return
    try:
        told = json.loads(metadata[DIGESTS])
        said, layouts = told["config"], [{str(k): v for k, v in layout.items()} for layout in told["tensors"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(f"the digests in the files can't be read; {DAMAGED}") from None
    if said != layout_digest(config):
        raise ValueError(
            f"quantization_config in config.json is not the one that was saved with the tensors; {DAMAGED}"
        )
    fitting = [layout for layout in layouts if entries.keys() <= layout.keys()]
    if not fitting:
        known = set().union(*layouts)
        raise ValueError(f"the files hold {min((entries.keys() - known) or entries)!r}, which was not saved; {DAMAGED}")
    found = _stored_digests(entries)
    for key, value in found.items():
        if fitting[0][key] not in (value, None):
            raise ValueError(f"{key} differs from what was saved; {DAMAGED} (verify=False reads them all the same)")
    lost = [key for key, value in fitting[0].items() if value is not None and value not in found.values()]
    if lost:
        raise ValueError(f"the files lack {lost[0]!r}, which was saved; {DAMAGED}")


def _stored_digests(entries: Mapping[str, Entry]) -> Layout:
    with ExitStack() as stack, ThreadPoolExecutor(_threads()) as pool:
        opened = {file: stack.enter_context(safe_open(file, "pt")) for file in {e.file for e in entries.values()}}
        found = pool.map(lambda key: digest(opened[entries[key].file].get_tensor(key)), entries)
        return dict(zip(entries, found, strict=True))


def _threads() -> int:
    return min(8, os.cpu_count() or 1)
