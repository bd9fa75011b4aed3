"""`vocabpress exec`: run other programs so that they load compressed checkpoints."""

import runpy
import sys
import traceback
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer


def execute(
    program: Annotated[
        str, typer.Argument(help="An installed command such as lm_eval or mteb, a module, or a .py file.")
    ],
    arguments: Annotated[list[str] | None, typer.Argument(help="Its arguments.")] = None,
) -> None:
    """Run a Python program in which transformers loads compressed checkpoints, as after `import vocabpress`."""
    commands = entry_points(group="console_scripts", name=program)
    is_file = program.endswith(".py")
    if not commands and not (Path(program).is_file() if is_file else _is_module(program)):
        raise ValueError(
            f"no Python program {program!r}; give an installed command such as lm_eval, a module, or a .py file"
        )
    sys.argv = [program, *(arguments or [])]
    try:
        if commands:
            sys.exit(next(iter(commands)).load()())
        elif is_file:
            sys.path.insert(0, str(Path(program).absolute().parent))
            runpy.run_path(program, run_name="__main__")
        else:
            runpy.run_module(program, run_name="__main__", alter_sys=True)
    except Exception:  # an error of the program, shown as Python does
        traceback.print_exc()
        raise typer.Exit(1) from None


def _is_module(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False
