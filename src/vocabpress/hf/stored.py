"""Check the files of a checkpoint before anything is loaded: contents, paths, sizes, digests.

Files can come from anywhere, so claims are checked before any memory is allocated for them.
"""

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
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
OLD_METADATA = {"format", "vocabpress_format_version"}  # the only metadata of files that were saved without digests
SAFETENSORS_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "U8"}
MAX_GROWTH = 16  # bytes of a model in memory per byte of its files: 2-bit codes become float32
ALWAYS_ALLOWED = 2**26  # bytes of a model that is never refused for its size
DAMAGED = "the files are damaged, or were not saved together; download them again"
TensorDigests = dict[str, str | None]
"""Name of a tensor -> its digest, or None if it has no digest."""


class Entry(NamedTuple):
    """A tensor in a header: its file, shape, and safetensors dtype."""

    file: str
    shape: tuple[int, ...]
    dtype: str


def read_headers(files: Sequence[str]) -> tuple[dict[str, Entry], dict[str, str]]:
    """The tensors in safetensors files, and their metadata. Only headers are read.

    Raises:
        ValueError: If a file has another format or is broken, or two files have a tensor of the same name.
    """
    entries: dict[str, Entry] = {}
    metadata: dict[str, str] = {}
    for file in files:
        if not file.endswith(".safetensors"):
            raise ValueError(f"{Path(file).name} is not a safetensors file; vocabpress reads weights from those alone")
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
    """Raise a ValueError if an index of shards names a file outside the folder of the checkpoint."""
    folder = str(getattr(model.config, "name_or_path", ""))
    if not os.path.isdir(folder):  # noqa: PTH112 - a hub id, which huggingface_hub checks
        return
    for file in files:
        if not Path(os.path.abspath(file)).is_relative_to(os.path.abspath(folder)):  # noqa: PTH100 - links stay
            raise ValueError(f"the checkpoint in {folder} names a file outside it, {file}; it is not to be trusted")


def check_size(model: nn.Module, files: Iterable[str]) -> None:
    """Raise a ValueError if a model on the meta device will need far more memory than its files have bytes."""
    stored = sum(Path(file).stat().st_size for file in files)
    needed = sum(tensor.numel() * tensor.itemsize for tensor in (*model.parameters(), *model.buffers()))
    if needed > max(ALWAYS_ALLOWED, MAX_GROWTH * stored):
        raise ValueError(
            f"by its config the model takes {needed:,} bytes, but its files have {stored:,}; the config belongs to "
            "another model, or the download is incomplete"
        )


def _stored_as(name: str, key: str | None, part: str, entries: Mapping[str, Entry]) -> list[str]:
    """The possible names in the files of the tensor ``part`` of a table; arguments as in `check_stored_table`."""
    end = ".weight" if part == key else f".table.{part}"
    exact = [full for full in entries if f".{full}".endswith(f".{name}{end}")]
    # Some models have other names for their modules in files, which transformers converts at load.
    return exact or [full for full in entries if full.endswith(end)]


def check_stored_table(name: str, key: str | None, table: CompressedEmbedding, entries: Mapping[str, Entry]) -> None:
    """Check that the files have the tensors of a table, in the shapes and dtypes given by its config.

    The map of tokens to blocks is read here, because transformers uses weights before a load is complete. The tensor
    ``key`` of the table is stored as ``<name>.weight``, with the name of the module relative to the base model.

    Raises:
        ValueError: If a tensor is missing or differs, or a map refers to rows that do not exist.
    """
    for item in table.storage():
        found = {full: entries[full][1:] for full in _stored_as(name, key, item.name, entries)}
        claimed = (item.shape, SAFETENSORS_DTYPES[item.dtype])
        if claimed not in found.values():
            actual = " and ".join(f"{dtype} of shape {list(shape)}" for shape, dtype in found.values())
            raise ValueError(
                f"by config.json {item.name} of {name} is {claimed[1]} of shape {list(item.shape)}, the files hold "
                f"{actual[:200] or 'no such tensor'}; {DAMAGED}"
            )
        form = table.get_submodule(item.name.rpartition(".")[0])
        if isinstance(form, Rows):
            for full in (full for full, layout in found.items() if layout == claimed):
                with safe_open(entries[full].file, "pt") as opened:
                    form.check_map(opened.get_tensor(full), full)


def digest(tensor: Tensor) -> str | None:
    """SHA-256 of a tensor's bytes as safetensors stores them; None for tensors without readable bytes.

    Rows are read in chunks, so a tensor that is on another device or not contiguous is never copied whole.
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
    """SHA-256 of the layout in a ``quantization_config``, as JSON with sorted keys and no spaces."""
    layout = {name: config.get(name) or empty for name, empty in (("tables", {}), ("linears", {}), ("separate", []))}
    return hashlib.sha256(json.dumps(layout, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def digests(model: PreTrainedModel, state: dict[str, Tensor], config: Mapping[str, Any]) -> dict[str, str]:
    """Metadata with the digests of a checkpoint, by which a reader can check it: its tensors and its config."""
    state = {name: tensor for name, tensor in state.items() if name not in (model._keys_to_ignore_on_save or ())}
    versions = [_digest_all(state, state.__getitem__)]
    # Some models have other names or shapes for tensors in files. A save may or may not convert, so both are listed.
    offloaded = any(tensor.is_meta for tensor in state.values())  # these are read only when they are written
    stored = state if offloaded else revert_weight_conversion(model, dict(state))
    if stored.keys() != state.keys():
        versions.insert(0, _digest_all(stored, stored.__getitem__))
    data = {"config": layout_digest(config), "tensors": versions}
    return {DIGESTS: json.dumps(data, separators=(",", ":"), sort_keys=True)}


def _digest_all(names: Collection[str], read: Callable[[str], Tensor]) -> TensorDigests:
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # hashing releases the GIL
        return dict(zip(names, pool.map(lambda name: digest(read(name)), names), strict=True))


def check_digests(entries: Mapping[str, Entry], metadata: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Raise a ValueError if the files do not hold exactly the tensors and the layout that were saved, bit for bit.

    Files of older versions have no digests in their metadata, and nothing is checked.
    """
    if DIGESTS not in metadata:
        unknown = metadata.keys() - OLD_METADATA
        if unknown:  # such as the name of the digests with a flipped bit
            raise ValueError(f"the files have no digests, but {min(unknown)!r} in their metadata; {DAMAGED}")
        return
    try:
        data = json.loads(metadata[DIGESTS])
        saved_layout = data["config"]
        versions = [{str(key): value for key, value in version.items()} for version in data["tensors"]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ValueError(f"the digests in the files can't be read; {DAMAGED}") from None
    if saved_layout != layout_digest(config):
        raise ValueError(
            f"quantization_config in config.json is not the one that was saved with the tensors; {DAMAGED}"
        )
    saved = next((version for version in versions if entries.keys() <= version.keys()), None)
    if saved is None:
        known = set().union(*versions)
        raise ValueError(f"the files hold {min((entries.keys() - known) or entries)!r}, which was not saved; {DAMAGED}")
    with ExitStack() as stack:
        opened = {file: stack.enter_context(safe_open(file, "pt")) for file in {e.file for e in entries.values()}}
        found = _digest_all(entries, lambda key: opened[entries[key].file].get_tensor(key))
    for key, value in found.items():
        if saved[key] not in (value, None):
            raise ValueError(f"{key} differs from what was saved; {DAMAGED} (verify=False loads them unchecked)")
    lost = [key for key, value in saved.items() if value is not None and value not in found.values()]
    if lost:
        raise ValueError(f"the files lack {lost[0]!r}, which was saved; {DAMAGED}")
