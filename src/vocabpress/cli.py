"""The command line. It reads arguments, calls the library, prints; errors are one line and exit code 2."""

import json
import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers.utils import logging as transformers_logging

from vocabpress.budget import Budget
from vocabpress.hf.compress import compress as compress_checkpoint
from vocabpress.hf.inspect import inspect as inspect_checkpoint
from vocabpress.hf.inspect import inspect_compressed
from vocabpress.methods import METHODS, make_method
from vocabpress.report import plot_spectrum, print_compressed, print_inspection, print_report

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

ModelArgument = Annotated[str, typer.Argument(help="A hub id, or a folder with config.json and weights.")]
TextOption = Annotated[
    list[Path] | None, typer.Option("--text", help="UTF-8 text file to count token frequencies in; may be repeated.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line of stdout.")]


@app.command()
def inspect(
    model: ModelArgument,
    text: TextOption = None,
    plot: Annotated[Path | None, typer.Option(help="Write the spectrum as a PNG to this file.")] = None,
    save_counts: Annotated[Path | None, typer.Option(help="Write the counts of --text, for compress --counts.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show the vocabulary tables of a model, their spectrum, and what each method would store of them."""
    found = inspect_compressed(model)
    if found is not None:
        if text or plot or save_counts:
            raise ValueError(f"{model} is compressed already; --text, --plot and --save-counts need the original")
        print_compressed(found)
    else:
        found = inspect_checkpoint(model, text or (), save_counts, progress=True)
        if plot is not None:
            plot_spectrum(found, plot)
        print_inspection(found)
    if as_json:
        print_json(asdict(found))


@app.command()
def compress(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make; must not exist, or be empty.")],
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(METHODS)}.")] = "lighttoken",
    ratio: Annotated[float | None, typer.Option(help="Table at most 1/RATIO of its size in --reference. [25]")] = None,
    bits_per_weight: Annotated[float | None, typer.Option(help="Or: at most so many bits for each entry.")] = None,
    size: Annotated[str | None, typer.Option(help="Or: at most so many bytes, such as 2MB or 800kB.")] = None,
    reference: Annotated[str, typer.Option(help="What a ratio is against: float32, bfloat16, float16.")] = "float32",
    text: TextOption = None,
    counts: Annotated[
        str | None, typer.Option(help="Instead of --text: a saved counts file, or vocabulary-order.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="field=value of the method; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    device: Annotated[str, typer.Option(help="Where to fit: cpu, cuda, cuda:1.")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Compress the token table of a model, and write a checkpoint that from_pretrained loads."""
    report = compress_checkpoint(
        model,
        output,
        method=make_method(method, **parse_settings(settings or [])),
        budget=parse_budget(ratio, bits_per_weight, size, reference),
        text=text or (),
        counts=counts,
        seed=seed,
        device=device,
        progress=True,
    )
    print_report(report)
    print(f"Written to {output}. To use it, `import vocabpress` and load the folder as before.")
    if as_json:
        print_json(asdict(report))


def parse_budget(ratio: float | None, bits_per_weight: float | None, size: str | None, reference: str) -> Budget:
    """The budget that the options say; ratio 25 if they say none.

    Raises:
        ValueError: If they say more than one.
    """
    makers: dict[str, tuple[Any, Callable[[Any], Budget]]] = {
        "--ratio": (ratio, lambda value: Budget.ratio(value, reference)),
        "--bits-per-weight": (bits_per_weight, Budget.bits_per_weight),
        "--size": (size, Budget.bytes),
    }
    given = [name for name, (value, _) in makers.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} both say how small; give one")
    if not given:
        return Budget.ratio(25, reference)
    value, make = makers[given[0]]
    return make(value)


def parse_settings(settings: list[str]) -> dict[str, str]:
    """``["epochs=3"]`` -> ``{"epochs": "3"}``.

    Raises:
        ValueError: If an entry has no ``=``.
    """
    pairs = [entry.partition("=") for entry in settings]
    for name, equals, _ in pairs:
        if not equals or not name:
            raise ValueError(f"--set takes field=value, got {name!r}; for example --set epochs=10")
    return {name.strip(): value.strip() for name, _, value in pairs}


def print_json(data: dict[str, Any]) -> None:
    """One JSON object on one line of stdout."""
    print(json.dumps(data, allow_nan=False))


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
    print("\ninterrupted; nothing was written", file=sys.stderr)
    return INTERRUPTED


def _fail(message: str) -> int:
    print(f"vocabpress: error: {message}", file=sys.stderr)
    return USAGE_ERROR


if __name__ == "__main__":
    sys.exit(main())
