"""Modules that a command imports when it runs. Importing torch takes seconds, and help must appear at once."""

import importlib
import logging
import os
import sys
from typing import Any

NOISY = ("torchao", "torch.utils._pytree", "huggingface_hub", "sentence_transformers", "datasets")


class Later:
    """Stands for a module, which is imported at the first use."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        quieten()
        module = importlib.import_module(self._name)
        _quieten_transformers()
        return getattr(module, attribute)


def quieten() -> None:
    """Reduce the output of other libraries to errors, and show their progress bars only on a terminal."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def _quieten_transformers() -> None:
    """Hide the bars "Loading weights", because a job loads many models."""
    transformers_logging = sys.modules.get("transformers.utils.logging")
    if transformers_logging is not None:
        transformers_logging.set_verbosity_error()
        transformers_logging.disable_progress_bar()
