"""Register our format as soon as transformers is imported, without importing it or torch.

Transformers looks up a format in two dictionaries, and a model type in a third. They get placeholders. The first use
of a placeholder imports the module of the real class, which then replaces it.
"""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

QUANT_METHOD = "vocabpress"
STATIC = "vocabpress_static"


class Placeholder:
    """Stands for one of our classes, whose module is imported at the first use."""

    def __init__(self, module: str, name: str) -> None:
        self._module, self._name = module, name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self._real(), attribute)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._real()(*arguments, **named)

    def _real(self) -> Any:
        importlib.import_module("vocabpress.hf.quantizer")
        return getattr(importlib.import_module(self._module), self._name)


def _register_format(auto: ModuleType) -> None:
    auto.AUTO_QUANTIZATION_CONFIG_MAPPING.setdefault(
        QUANT_METHOD, Placeholder("vocabpress.hf.config", "VocabpressConfig")
    )
    auto.AUTO_QUANTIZER_MAPPING.setdefault(QUANT_METHOD, Placeholder("vocabpress.hf.quantizer", "VocabpressQuantizer"))


def _register_static(auto: ModuleType) -> None:
    extra = getattr(auto.CONFIG_MAPPING, "_extra_content", None)
    if extra is None:  # another version of transformers: import it now
        importlib.import_module("vocabpress.hf.static")
    else:
        extra.setdefault(STATIC, Placeholder("vocabpress.hf.static", "StaticConfig"))


AWAITED: dict[str, Callable[[ModuleType], None]] = {
    "transformers.quantizers.auto": _register_format,
    "transformers.models.auto.configuration_auto": _register_static,
}


class _Awaiting(MetaPathFinder):
    """Finds no modules itself. It lets the other finders load an awaited module, then registers our classes in it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in AWAITED or self.busy:
            return None
        self.busy = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.busy = False
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            run = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                run(module)
                AWAITED[fullname](module)

            loader.exec_module = exec_module
        return spec

    busy = False


def register() -> None:
    """Register the format now if transformers is imported, otherwise when it is."""
    for name, register_in in AWAITED.items():
        if name in sys.modules:
            register_in(sys.modules[name])
    if not any(isinstance(finder, _Awaiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Awaiting())
