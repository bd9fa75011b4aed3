"""The command line. It reads arguments, calls the library, prints; errors are one line and exit code 2."""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from transformers.utils import logging as transformers_logging

from vocabpress.cli.compress import compress, inspect
from vocabpress.cli.evaluate import evaluate
from vocabpress.cli.execute import execute
from vocabpress.cli.export import export
from vocabpress.cli.gates import gates
from vocabpress.cli.metric import metric
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
    help="Press the vocabulary table of a language model to a small fraction of its size.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

for command in (inspect, trim, gates, metric, plan, compress, evaluate, recover, export, sweep, report):
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


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Without the program's name; None reads ``sys.argv``.

    Returns:
        The exit code: 0, 2 for bad input, 130 when interrupted.
    """
    transformers_logging.set_verbosity_error()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        with _terminated_as_interrupted():
            code = app(args=arguments, standalone_mode=False)
    except typer.Exit as stop:  # some versions of typer turn an interruption into this
        return _interrupted() if stop.exit_code == INTERRUPTED else stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
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
