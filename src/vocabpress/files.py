"""Checks that a file can be written, before long work."""

import tempfile
from pathlib import Path


def check_place(path: str | Path, what: str = "", made: bool = False) -> None:
    """Raise a ValueError if a file can't be written, whose folder will be ``made`` or not.

    ``what`` is its content, for the message, such as ``"the picture "``.
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
