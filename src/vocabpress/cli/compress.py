"""`vocabpress inspect` and `vocabpress compress`."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vocabpress.budget import Budget
from vocabpress.cli.options import (
    JsonOption,
    ModelArgument,
    SettingsOption,
    TextOption,
    TrustOption,
    parse_settings,
    print_json,
)
from vocabpress.cli.together import together
from vocabpress.hf.compress import compress as compress_checkpoint
from vocabpress.hf.importance import Sensitivity
from vocabpress.hf.inner import BODIES
from vocabpress.hf.inspect import inspect as inspect_checkpoint
from vocabpress.hf.inspect import inspect_compressed
from vocabpress.hf.presets import PRESETS, preset
from vocabpress.hf.shapes import LinearShapes
from vocabpress.methods import METHODS, make_method
from vocabpress.report.console import plot_spectrum, print_compressed, print_inspection, print_report


def inspect(
    model: ModelArgument,
    text: TextOption = None,
    plot: Annotated[Path | None, typer.Option(help="Write the spectrum as a PNG to this file.")] = None,
    save_counts: Annotated[Path | None, typer.Option(help="Write the counts of --text, for compress --counts.")] = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Show the vocabulary tables of a model, their spectrum, and what each method would store of them."""
    found = inspect_compressed(model)
    if found is not None:
        if text or plot or save_counts:
            raise ValueError(f"{model} is compressed already; --text, --plot and --save-counts need the original")
        print_compressed(found)
    else:
        found = inspect_checkpoint(model, text or (), save_counts, progress=True, trust_remote_code=trust_remote_code)
        if plot is not None:
            plot_spectrum(found, plot)
        print_inspection(found)
    if as_json:
        print_json(asdict(found))


def compress(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to make; must not exist, or be empty.")],
    method: Annotated[
        str | None,
        typer.Option(
            help=f"One of: {', '.join(METHODS)}; A+B, where B presses what A leaves over; or blockwise:A, A for each "
            "block of tokens by weight. [fastscan where an output head is tied to the table, tcq elsewhere]"
        ),
    ] = None,
    ratio: Annotated[float | None, typer.Option(help="Table at most 1/RATIO of its size in --reference. [25]")] = None,
    bits_per_weight: Annotated[float | None, typer.Option(help="Or: at most so many bits for each entry.")] = None,
    size: Annotated[str | None, typer.Option(help="Or: at most so many bytes, such as 2MB or 800kB.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="What a ratio is against: float32, bfloat16, float16. [float32]")
    ] = None,
    linears: Annotated[
        list[str] | None,
        typer.Option(
            help="Linear maps as Kronecker products, too: attention=N1xM1 or ffn=N1xM1, columns and rows of the left "
            "factor, such as 48x384 or 1/16x1/2 of the map's sides; terms=N, factors=int8. May be repeated."
        ),
    ] = None,
    preset_name: Annotated[
        str | None,
        typer.Option("--preset", help=f"Instead of method, ratio and linears, as published: {', '.join(PRESETS)}."),
    ] = None,
    text: TextOption = None,
    counts: Annotated[
        str | None,
        typer.Option(help="Instead of --text: a saved counts file, or uniform, every token alike. [vocabulary-order]"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Instead of the square roots of counts: another power of them, such as 0.3; tfidf of --text; or a "
            "saved weights file."
        ),
    ] = None,
    metric: Annotated[
        Path | None, typer.Option(help="What vocabpress metric wrote: in which directions errors of a row matter.")
    ] = None,
    metric_strength: Annotated[float, typer.Option(help="Exponent of --metric; 0 heeds it not at all.")] = 1.0,
    direction: Annotated[
        float, typer.Option(help="0 to 1: how far an error counts relative to the length of its row, as in cosine.")
    ] = 0.0,
    settings: SettingsOption = None,
    body: Annotated[
        str | None, typer.Option(help=f"Quantise all else, too: {', '.join(BODIES)}, by torchao. [as it is]")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    device: Annotated[str, typer.Option(help="Where to fit: cpu, cuda, cuda:1.")] = "cpu",
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compress the token table of a model, and write a checkpoint that from_pretrained loads.

    Under torchrun all processes fit one table together, each some of its rows.
    """
    budget, fields = parse_budget(ratio, bits_per_weight, size, reference), parse_settings(settings or [])
    if preset_name is None:
        if fields and method is None:
            raise ValueError(f"--set {next(iter(fields))}=… sets a field of a method; name the method with --method")
        chosen: dict[str, Any] = {
            "method": None if method is None else make_method(method, **fields),
            "budget": budget or Budget.ratio(25, reference or "float32"),
            "linears": LinearShapes.read(parse_settings(linears, "--linears")) if linears else None,
        }
    elif method is not None or budget is not None or reference is not None or linears:
        raise ValueError(f"--preset {preset_name} says method, size and linear maps; give it, or give them")
    else:
        chosen = preset(preset_name, **fields)
    if text or counts is not None:
        chosen["counts"] = counts
    with together(device) as shards:
        report = compress_checkpoint(
            model,
            output,
            **chosen,
            text=text or (),
            weights=weights,
            metric=None if metric is None else Sensitivity(metric, metric_strength),
            direction=direction,
            body=body,
            seed=seed,
            device=device,
            progress=True,
            trust_remote_code=trust_remote_code,
            shards=shards,
        )
    if shards.rank:
        return
    print_report(report)
    print(f"Written to {output}. To use it, `import vocabpress` and load the folder as before.")
    if as_json:
        print_json(asdict(report))


def parse_budget(
    ratio: float | None, bits_per_weight: float | None, size: str | None, reference: str | None
) -> Budget | None:
    """The budget that the options say, if they say one.

    Raises:
        ValueError: If they say more than one, or a reference beside one that is no ratio.
    """
    makers: dict[str, tuple[Any, Callable[[Any], Budget]]] = {
        "--ratio": (ratio, lambda value: Budget.ratio(value, reference or "float32")),
        "--bits-per-weight": (bits_per_weight, Budget.bits_per_weight),
        "--size": (size, Budget.bytes),
    }
    given = [name for name, (value, _) in makers.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} both say how small; give one")
    if not given:
        return None
    if reference is not None and given != ["--ratio"]:
        raise ValueError(f"--reference is what a ratio is against; leave it out beside {given[0]}")
    value, make = makers[given[0]]
    return make(value)
