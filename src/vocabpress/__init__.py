"""Compress the vocabulary tables of language models, and load the result with the tools people already use.

Importing this package registers the format with transformers: `AutoModel.from_pretrained` then reads it. What it
exports stands in `__init__.pyi`, and is imported when it is asked for, so that neither the import nor the command line
waits for torch.
"""

import importlib
from typing import Any

import lazy_loader

from vocabpress import registration

_exported, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """What is exported, and the packages inside, each imported at its first use."""
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("vocabpress")
    if name in __all__:
        return _exported(name)
    try:
        return importlib.import_module(f"vocabpress.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"vocabpress.{name}":
            raise
    raise AttributeError(f"module 'vocabpress' has no attribute {name!r}")


registration.register()
