"""`vocabpress compress`."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vocabpress.cli.later import Later
from vocabpress.cli.names import BODIES, METHODS, PRESETS
from vocabpress.cli.options import (
    BitsOption,
    JsonOption,
    ModelArgument,
    RatioOption,
    ReferenceOption,
    RevisionOption,
    SettingsOption,
    SizeOption,
    TextOption,
    TrustOption,
    located,
    parse_settings,
    print_json,
)

budgets, methods, forecasts = Later("vocabpress.budget"), Later("vocabpress.methods"), Later("vocabpress.forecast")
library, slices, requests = (
    Later("vocabpress.hf.compress"),
    Later("vocabpress.hf.slices"),
    Later("vocabpress.hf.request"),
)
printing, processes = Later("vocabpress.cli.printing"), Later("vocabpress.cli.together")


def compress(
    model: ModelArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to make; must not exist, or be empty.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"One of: {', '.join(METHODS)}; A+B, where B compresses what A leaves over; or blockwise:A, A for "
            "each block of tokens by weight. [fastscan where an output head is tied to the table, tcq elsewhere]"
        ),
    ] = None,
    ratio: RatioOption = None,
    bits_per_weight: BitsOption = None,
    size: SizeOption = None,
    reference: ReferenceOption = None,
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
    calibration: Annotated[
        str | None,
        typer.Option(
            help="What vocabpress calibrate wrote; or uniform, every token alike; or vocabulary-order, which is what "
            "counts without --text."
        ),
    ] = None,
    settings: SettingsOption = None,
    body: Annotated[
        str | None, typer.Option(help=f"Quantise all else, too: {', '.join(BODIES)}, by torchao. [as it is]")
    ] = None,
    tie: Annotated[
        bool, typer.Option("--tie", help="Tie an output head that is stored apart and equals the table.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of all randomness.")] = 0,
    device: Annotated[str, typer.Option(help="Where to fit: cpu, cuda, cuda:1.")] = "cpu",
    revision: RevisionOption = None,
    trust_remote_code: TrustOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what bytes, memory and time it would take, and write nothing.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compress the token table of a model, and write a checkpoint that from_pretrained loads.

    Under torchrun all processes fit one table together, each some of its rows.
    """
    budget, fields = parse_budget(ratio, bits_per_weight, size, reference), parse_settings(settings or [])
    if output is None and not dry_run:
        raise ValueError("Missing option '-o' / '--output': the folder to make")
    model = located(model, revision)
    if preset_name is None:
        chosen: dict[str, Any] = {
            "method": chosen_method(model, method, fields),
            "budget": budget or budgets.Budget.ratio(25, reference or "float32"),
            "linears": requests.LinearShapes.read(parse_settings(linears, "--linears")) if linears else None,
        }
    elif method is not None or budget is not None or reference is not None or linears:
        raise ValueError(f"--preset {preset_name} says method, size and linear maps; give it, or give them")
    else:
        chosen = requests.preset(preset_name, **fields)
    if dry_run:
        foretell(model, chosen["method"], chosen["budget"], as_json=as_json)
        return
    if text or calibration is not None:
        chosen["calibration"] = calibration
    with processes.together(device) as shards:
        report = library.compress(
            model,
            output,
            **chosen,
            text=text or (),
            body=body,
            tie=tie,
            seed=seed,
            device=device,
            progress=True,
            trust_remote_code=trust_remote_code,
            shards=shards,
        )
    if shards.rank:
        return
    printing.print_report(report)
    print(
        f"Written to {output}. To use it, `import vocabpress` and load the folder as before; its README.md shows how."
    )
    if as_json:
        print_json(asdict(report))


def chosen_method(model: str, name: str | None, fields: dict[str, str]) -> Any:
    """The method by name and fields; of fields alone, the one that the model gets by default; None of neither.

    Raises:
        ValueError: If a name, a field or a value is unknown.
    """
    if name is None and not fields:
        return None
    return methods.make_method(name or slices.default_method_name(model), **fields)


def foretell(model: str, method: Any, budget: Any, *, as_json: bool, **circumstances: Any) -> None:
    """Print what a compression will take, and why: `--dry-run`, and `vocabpress plan`."""
    table = slices.find_stored_table(model)
    method = method or methods.make_method(slices.default_method_name(model))
    foretell_shape(table.shape, table.dtype, method, budget, as_json=as_json, **circumstances)


def foretell_shape(
    shape: tuple[int, int], dtype: Any, method: Any, budget: Any, *, as_json: bool, **circumstances: Any
) -> None:
    """The same of a table that need not be there."""
    found = forecasts.forecast(method, *shape, budget, dtype=dtype, **circumstances)
    name, kind = methods.method_name(method), budgets.dtype_name(dtype)
    printing.print_forecast(found, f"{shape[0]:,} x {shape[1]:,} in {kind} by {name}, {budget}")
    few = ", ".join(f"{count:,} rows in {seconds:.1f} s" for count, seconds in found.measured.items())
    print(f"From {few}, fitted on this machine; memory beside Python and torch, which take half a gigabyte.")
    if as_json:
        print_json(asdict(found) | {"method": name, "budget": str(budget), "dtype": kind})


def parse_budget(ratio: float | None, bits_per_weight: float | None, size: str | None, reference: str | None) -> Any:
    """The budget that the options say, if they say one.

    Raises:
        ValueError: If they say more than one, or a reference beside one that is no ratio.
    """
    makers: dict[str, tuple[Any, Callable[[Any], Any]]] = {
        "--ratio": (ratio, lambda value: budgets.Budget.ratio(value, reference or "float32")),
        "--bits-per-weight": (bits_per_weight, lambda value: budgets.Budget.bits_per_weight(value)),
        "--size": (size, lambda value: budgets.Budget.bytes(value)),
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
