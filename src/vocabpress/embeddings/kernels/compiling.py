"""Numba, where it is installed (the `fast` extra): how loops are compiled, and where what was compiled is kept.

Compiling takes seconds, so numba keeps the result in files: beside ours, or in the user's cache. In a container, whose
user may write to neither, a folder of the user's own among the temporary files serves, and where there is none, loops
are compiled anew in each process. No file of a cache is worth an error.
"""

import importlib
import importlib.util
import os
import stat
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

Loop = Callable[..., Any]


def _numba() -> Any:
    """The package, or None where it is not installed, does not fit what is beside it, or is set to compile nothing."""
    if importlib.util.find_spec("numba") is None or os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return None
    try:
        return importlib.import_module("numba")
    except Exception as error:  # such as of a version for another numpy
        warnings.warn(f"numba can't be used, so tables are read by slower loops: {error}", stacklevel=2)
        return None


numba = _numba()
HAVE_NUMBA = numba is not None
pointer_to: Any = None  # only loops that numba compiles use these
carray: Any = None


def _plain(loop: Loop) -> Loop:
    return loop


def _forgiving(use: Callable[..., Any]) -> Callable[..., Any]:
    """A use of a cache that a full disk or a broken file makes nothing of."""

    def used(*arguments: Any) -> Any:
        try:
            return use(*arguments)
        except Exception:  # unpickling a broken file raises almost anything
            return None

    return used


def _temporary_cache() -> Path | None:
    """A folder among the temporary files that nobody else can write to: code is loaded from it. None without one."""
    user = os.getuid() if hasattr(os, "getuid") else "me"
    try:
        folder = Path(tempfile.gettempdir()) / f"vocabpress-loops-{user}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    mine = stat.S_ISDIR(found.st_mode) and found.st_uid == getattr(os, "getuid", lambda: found.st_uid)()
    return folder if mine and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else None


if HAVE_NUMBA:
    from numba import types
    from numba.extending import intrinsic

    def _compiler(**options: Any) -> Callable[[Loop], Loop]:
        def compiled(loop: Loop) -> Loop:
            usual = numba.config.CACHE_DIR
            for place in (lambda: usual, _temporary_cache):
                folder = place()
                if folder is not None:
                    numba.config.CACHE_DIR = str(folder)
                    try:
                        return _cached(numba.njit(nogil=True, cache=True, **options)(loop))
                    except RuntimeError:  # numba finds no folder to write to
                        continue
                    finally:
                        numba.config.CACHE_DIR = usual
            return numba.njit(nogil=True, **options)(loop)

        return compiled

    def _cached(made: Any) -> Any:
        """No file of its cache is worth an error."""
        cache = getattr(made, "_cache", None)
        for use in ("load_overload", "save_overload"):
            if hasattr(cache, use):
                setattr(cache, use, _forgiving(getattr(cache, use)))
        return made

    @intrinsic
    def _pointer_to(typing: Any, address: Any) -> Any:
        """The bytes at an address, a number, for `carray`: numba itself makes no pointer of a number."""

        def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(types.voidptr))

        return types.voidptr(address), code

    compiled = _compiler()
    # Sums may be taken side by side; numbers that are not finite stay what they are.
    summing = _compiler(fastmath={"reassoc", "contract"})
    carray, pointer_to = numba.carray, _pointer_to
else:
    compiled = summing = _plain
