"""Modules that a command imports when it runs: what only reads options must answer at once, and torch takes seconds."""

import importlib
import logging
import os
import sys
from typing import Any

NOISY = ("torchao", "torch.utils._pytree", "huggingface_hub", "sentence_transformers", "datasets")


class Later:
    """Stands for a module, and is imported at its first use.

    Args:
        name: Of the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        quieten()
        module = importlib.import_module(self._name)
        _quieten_transformers()
        return getattr(module, attribute)


def quieten() -> None:
    """Let other libraries say what went wrong alone; their bars are drawn where somebody watches."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)


def _quieten_transformers() -> None:
    """Without "Loading weights": a bar for each of many loads is none of a job."""
    known = sys.modules.get("transformers.utils.logging")
    if known is not None:
        known.set_verbosity_error()
        known.disable_progress_bar()
