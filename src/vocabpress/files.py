"""Single files that commands write: seen to be writable before the work that they are to hold."""

import tempfile
from pathlib import Path


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
