"""One tensor in a safetensors file, for what commands hand to each other: counts, weights, a metric."""

import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor


def check_place(path: str | Path, what: str = "", made: bool = False) -> None:
    """Refuse a file that can't be made, before the work that it is to hold.

    Args:
        path: The file.
        what: It is, for the message, such as ``"the picture "``.
        made: Whether its folder will be made.

    Raises:
        ValueError: If it is a folder, or in none, or can't be written.
    """
    file = Path(path).absolute()
    if made:
        file = next(folder for folder in file.parents if folder.exists()) / file.name
    if file.is_dir() or not file.parent.is_dir():
        raise ValueError(f"can't write {what}{path}: it is a folder, or in none; give a file, such as out.safetensors")
    try:
        if file.exists():
            file.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=file.parent).close()
    except OSError as error:
        reason = error.strerror or error
        raise ValueError(f"can't write {what}{path}: {reason}; give a place where you may make files") from None


def save_tensor(values: Tensor, key: str, path: str | Path) -> None:
    """Write a tensor in float32 under a name.

    Raises:
        ValueError: If the file can't be written.
    """
    try:
        save_file({key: values.detach().float().cpu().contiguous()}, str(path))
    except (OSError, SafetensorError) as error:
        raise ValueError(f"can't write the {key.replace('_', ' ')} to {path}: {error}") from None


def load_tensor(key: str, word: str, path: str | Path, maker: str) -> Tensor:
    """Read what :func:`save_tensor` wrote.

    Args:
        key: The name.
        word: What kind of file it is, for messages.
        path: The file.
        maker: What writes such files.

    Raises:
        ValueError: If the file is missing or holds no such tensor.
    """
    if not Path(path).is_file():
        raise ValueError(f"no such {word} file: {path}")
    try:
        tensors = load_file(str(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is not a {word} file written by vocabpress ({error})") from None
    if key not in tensors:
        raise ValueError(f"{path} holds {', '.join(tensors) or 'nothing'} and no {key}; write it with {maker}")
    return tensors[key]
