"""Imports run one way. The layers, lowest first; a module may import from its own layer and from those below.

A room is a package, or one module of it that stands lower than the others.
"""

import ast
from pathlib import Path

import vocabpress

SOURCE = Path(vocabpress.__file__).parent
LAYERS = [
    {"registration", "progress"},
    {"packing", "budget", "chunks", "texts", "hub", "files", "settings", "results"},
    {"embeddings"},
    {"fitting"},
    {"methods"},
    {"calibrate.calibration", "calibrate.counts"},
    {"reconstruction", "spectrum", "neighbours", "forecast"},
    {"hf"},
    {"evaluate", "export", "trim"},
    {"recover"},
    {"calibrate"},
    {"job"},
    {"sweep"},
    {"report", ""},
    {"cli", "__main__"},
]
TRANSFORMERS_MAY = {"hf", "evaluate", "recover", "calibrate", "job", "export", "trim"}


def layer_of(module: str) -> int:
    names = [".".join(module.split(".")[1 : 1 + depth]) for depth in (2, 1)]
    return next(index for name in names for index, rooms in enumerate(LAYERS) if name in rooms)


def modules():
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        yield ".".join(("vocabpress", *parts)).removesuffix(".__init__"), ast.parse(path.read_text(encoding="utf-8"))


def imported(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []


def test_every_module_has_a_layer():
    assert all(layer_of(name) >= 0 for name, _ in modules())


def test_imports_run_one_way():
    for name, tree in modules():
        for node in ast.walk(tree):
            for target in imported(node):
                if target.split(".")[0] == "vocabpress":
                    assert layer_of(target) <= layer_of(name), f"{name} imports {target}"
                if target.split(".")[0] == "transformers":
                    assert name.split(".")[1] in TRANSFORMERS_MAY, f"{name} imports transformers"


def test_no_import_of_the_package_inside_a_function():
    for name, tree in modules():
        for function in ast.walk(tree):
            if isinstance(function, ast.FunctionDef):
                inner = [target for node in ast.walk(function) for target in imported(node)]
                assert not [t for t in inner if t.split(".")[0] == "vocabpress"], f"{name}.{function.name}"


def test_files_stay_readable():
    root = Path(__file__).parents[1]
    folders = [SOURCE, root / "tests", root / "benchmarks", root / "examples"]
    for path in (path for folder in folders for path in folder.rglob("*.py")):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
