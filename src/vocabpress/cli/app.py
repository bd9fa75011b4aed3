"""The command line: parse arguments, call the library, print. Errors are one line, with exit code 2."""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

import vocabpress
from vocabpress.cli.calibrate import calibrate
from vocabpress.cli.compress import compress
from vocabpress.cli.evaluate import evaluate
from vocabpress.cli.execute import execute
from vocabpress.cli.export import export
from vocabpress.cli.inspect import inspect
from vocabpress.cli.later import quieten
from vocabpress.cli.options import USAGE_ERROR, only_json_on_stdout
from vocabpress.cli.recover import recover
from vocabpress.cli.report import report
from vocabpress.cli.sweep import sweep
from vocabpress.cli.trim import trim

INTERRUPT_CODE = 130

# The base of errors such as "no such option". It is in click or in typer's copy of click; a subclass leads to it.
ClickException: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"vocabpress {vocabpress.__version__}")
        raise typer.Exit


@app.callback()
def global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compress the vocabulary table of a language model to a small fraction of its size."""


for command in (inspect, trim, calibrate, compress, evaluate, recover, export, sweep, report):
    app.command()(command)
# Arguments after the program's name belong to the program.
app.command("exec", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})(execute)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C, so that temporary folders are removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _one_line_warnings() -> Iterator[None]:
    """Print our own warnings as one line each, and hide those of other libraries, which concern developers."""

    def show(message: Any, category: Any, filename: str, *_: Any) -> None:
        if "vocabpress" in filename and issubclass(category, UserWarning):
            print(f"vocabpress: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Arguments without the program's name; None reads ``sys.argv``.

    Returns:
        The exit code: 0, 2 for bad input, 130 when interrupted.
    """
    quieten()
    arguments = sys.argv[1:] if arguments is None else arguments
    json_wanted = "--json" in arguments and arguments[:1] != ["exec"]  # after exec it belongs to the other program
    try:
        with _terminated_as_interrupted(), _one_line_warnings(), only_json_on_stdout(json_wanted):
            code = app(args=arguments, standalone_mode=False)
    except typer.Exit as stop:  # some versions of typer turn an interrupt into this
        return _interrupted() if stop.exit_code == INTERRUPT_CODE else stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except BrokenPipeError:  # the reader has closed stdout, as `| head` does; files are complete
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - Python flushes both at exit
        return 0
    except ValueError as error:
        return _fail(" ".join(str(error).split()))
    except ClickException as error:
        return _fail(error.format_message())
    return (_interrupted() if code == INTERRUPT_CODE else code) if isinstance(code, int) else 0


def _interrupted() -> int:
    print("\ninterrupted; finished results remain, and no incomplete file is left", file=sys.stderr)
    return INTERRUPT_CODE


def _fail(message: str) -> int:
    print(f"vocabpress: error: {message}", file=sys.stderr)
    return USAGE_ERROR
