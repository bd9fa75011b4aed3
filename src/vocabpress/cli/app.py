"""The command line. It reads arguments, calls the library, prints; errors are one line and exit code 2."""

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
from vocabpress.cli.options import only_json_on_stdout
from vocabpress.cli.plan import plan
from vocabpress.cli.recover import recover
from vocabpress.cli.report import report
from vocabpress.cli.sweep import sweep
from vocabpress.cli.trim import trim

USAGE_ERROR = 2
INTERRUPTED = 130

# The base of "no such option" and its like. It lives in click, or in typer's own copy of click: reached by its child.
ClickException: Any = typer.BadParameter.__mro__[2]

app = typer.Typer(
    help="Compress the vocabulary table of a language model to a small fraction of its size.",
    context_settings={"help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"vocabpress {vocabpress.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compress the vocabulary table of a language model to a small fraction of its size."""


for command in (inspect, trim, calibrate, plan, compress, evaluate, recover, export, sweep, report):
    app.command()(command)
# What follows the program's name is for the program.
app.command("exec", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})(execute)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A SIGTERM unwinds like Ctrl-C, so that half-written folders are removed."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _warned_in_a_line() -> Iterator[None]:
    """Our own warnings as a line each; those of other libraries are for who develops with them."""

    def show(message: Any, category: Any, filename: str, *_: Any) -> None:
        if "vocabpress" in filename and issubclass(category, UserWarning):
            print(f"vocabpress: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None reads ``sys.argv``.

    Returns:
        The exit code: 0, 2 for bad input, 130 when interrupted.
    """
    quieten()
    given = sys.argv[1:] if arguments is None else arguments
    json_wanted = "--json" in given and given[:1] != ["exec"]  # what follows exec is another program's
    try:
        with _terminated_as_interrupted(), _warned_in_a_line(), only_json_on_stdout(json_wanted):
            code = app(args=given, standalone_mode=False)
    except typer.Exit as stop:  # some versions of typer turn an interruption into this
        return _interrupted() if stop.exit_code == INTERRUPTED else stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except BrokenPipeError:  # as behind `| head`; what was to be written is written
        sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for what Python flushes at its end
        return 0
    except ValueError as error:
        return _fail(" ".join(str(error).split()))
    except ClickException as error:
        return _fail(error.format_message())
    return (_interrupted() if code == INTERRUPTED else code) if isinstance(code, int) else 0


def _interrupted() -> int:
    print("\ninterrupted; finished work stays, nothing is half written", file=sys.stderr)
    return INTERRUPTED


def _fail(message: str) -> int:
    print(f"vocabpress: error: {message}", file=sys.stderr)
    return USAGE_ERROR
