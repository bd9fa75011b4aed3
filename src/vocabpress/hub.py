"""Where a model is: a folder here, or one of the hub's, downloaded; told in half a second where there is none."""

import os
from pathlib import Path
from typing import Any

IGNORED = ["onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf"]


def at(model: str, revision: str | None) -> str:
    """A model's id with a revision of it, as everything here takes it: ``org/name@revision``.

    Raises:
        ValueError: If the model is a folder.
    """
    if revision is None:
        return model
    if Path(model).exists():
        raise ValueError(f"{model} is a folder here and has no revisions; --revision is for models of the hub")
    return f"{model}@{revision}"


def split(model: str | Path) -> tuple[str, str | None]:
    """The id of a model of the hub, and the revision that is asked for."""
    name, _, revision = str(model).partition("@")
    return name, revision or None


def check(model: str | Path) -> None:
    """See that there is such a model, without a download.

    Raises:
        ValueError: If there is none.
    """
    if _local(model) is not None:
        return
    from huggingface_hub import constants  # each of its parts when it is needed: the command line must answer at once

    name, revision = split(model)
    if (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir():
        return
    if constants.HF_HUB_OFFLINE:
        raise _no_such(model)
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, revision=revision, timeout=10)
    except Exception as error:  # of the network, in any way
        raise _no_such(model, error) from None


def find(model: str | Path) -> Path:
    """The folder of a model: itself, or the snapshot of a hub id, downloaded where it is not cached.

    Raises:
        ValueError: If there is no such model.
    """
    folder = _local(model)
    return _download(*split(model)) if folder is None else folder


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=IGNORED))
    except (OSError, ValueError) as error:
        raise _no_such(name if revision is None else f"{name}@{revision}", error) from None


def _local(model: str | Path) -> Path | None:
    """A folder here; None where the hub may know the name.

    Raises:
        ValueError: If it is a file, or is written as a path and there is none.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{model} is a file; give the folder that holds config.json and model.safetensors")
    text = str(model)
    if isinstance(model, Path) or text.startswith((".", "~", os.sep)) or text.count("/") > 1 or "\\" in text:
        raise _no_such(model)
    return None


def _no_such(model: str | Path, error: Any = None) -> ValueError:
    kind, (name, revision) = type(error).__name__, split(model)
    if kind == "RevisionNotFoundError":
        return ValueError(f"the model {name!r} has no revision {revision!r}; give a branch, a tag or a commit of it")
    why = ", which can't be reached" if "onnect" in kind or "imeout" in kind else ""
    return ValueError(
        f"no such model: {str(model)!r} is neither a folder here nor a model that the hub{why}, or its local cache, "
        "gives; check the spelling, or download it first and give the folder"
    )
