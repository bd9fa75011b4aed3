"""Find models: a local folder, or a download from the hub. A missing model is reported within half a second."""

import os
import re
from pathlib import Path
from typing import Any

IGNORED = ["onnx/*", "openvino/*", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.gguf"]
SNAPSHOT = re.compile(r"models--(?:(?P<owner>[^/]+?)--)?(?P<name>[^/]+)/snapshots/")  # in the hub's cache


def at(model: str, revision: str | None) -> str:
    """A model's id with a revision, as all functions accept it, ``org/name@revision``; a ValueError for a folder."""
    if revision is None:
        return model
    if Path(model).exists():
        raise ValueError(f"{model} is a local folder and has no revisions; --revision is for models of the hub")
    return f"{model}@{revision}"


def split(model: str | Path) -> tuple[str, str | None]:
    """Split into the id of a model of the hub and its revision, None if there is none."""
    name, _, revision = str(model).partition("@")
    return name, revision or None


def hub_id(model: str | Path) -> str | None:
    """The hub id of a model, given its id or a folder in the hub's cache; None for any other folder."""
    if not Path(model).is_dir():
        return split(model)[0]
    found = SNAPSHOT.search(f"{os.path.realpath(model)}/")
    if found is None:
        return None
    return "/".join(filter(None, (found["owner"], found["name"])))


def model_name(model: str | Path) -> str:
    """The name of a model, without its owner or parent folders; links and ``.`` are resolved."""
    known = hub_id(model)
    return Path(os.path.realpath(model)).name if known is None else known.rpartition("/")[2]


def check(model: str | Path) -> None:
    """Raise a ValueError if a model does not exist, without a download."""
    if _local_folder(model) is not None:
        return
    from huggingface_hub import constants  # imported as late as possible, for a fast command line

    name, revision = split(model)
    if (Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}").is_dir():
        return
    if constants.HF_HUB_OFFLINE:
        raise _no_such_model(model)
    from huggingface_hub import HfApi

    try:
        HfApi().model_info(name, revision=revision, timeout=10)
    except Exception as error:  # network errors have many types
        raise _no_such_model(model, error) from None


def find(model: str | Path) -> Path:
    """The folder of a model, which is downloaded if it is not in the cache; a ValueError if there is none."""
    folder = _local_folder(model)
    return _download(*split(model)) if folder is None else folder


def _download(name: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, ignore_patterns=IGNORED))
    except (OSError, ValueError) as error:
        raise _no_such_model(name if revision is None else f"{name}@{revision}", error) from None


def _local_folder(model: str | Path) -> Path | None:
    """The local folder of a model; None if the name may be a hub id, a ValueError if it can only be a path."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ValueError(f"{model} is a file; give the folder with config.json and model.safetensors")
    text = str(model)
    if isinstance(model, Path) or text.startswith((".", "~", os.sep)) or text.count("/") > 1 or "\\" in text:
        raise _no_such_model(model)
    return None


def _no_such_model(model: str | Path, error: Any = None) -> ValueError:
    kind, (name, revision) = type(error).__name__, split(model)
    if kind == "RevisionNotFoundError":
        return ValueError(f"the model {name!r} has no revision {revision!r}; give one of its branches, tags or commits")
    places = "neither a local folder nor in the hub's cache"
    if error is not None:
        reached = "the hub can't be reached" if "onnect" in kind or "imeout" in kind else "not on the hub"
        places = f"not a local folder, not in the hub's cache, and {reached}"
    return ValueError(
        f"no such model: {str(model)!r} is {places}; check the spelling, or download it first and give the folder"
    )
