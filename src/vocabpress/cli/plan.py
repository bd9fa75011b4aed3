"""`vocabpress plan`: what a compression will take, before it is begun."""

import re
from dataclasses import asdict
from typing import Annotated

import torch
import typer

from vocabpress.budget import DTYPES, Budget, dtype_name
from vocabpress.cli.compress import parse_budget
from vocabpress.cli.options import JsonOption, SettingsOption, parse_settings, print_json
from vocabpress.forecast import forecast
from vocabpress.hf.slices import find_stored_table
from vocabpress.methods import METHODS, make_method
from vocabpress.report.console import print_forecast

SHAPE = re.compile(r"(\d+)[xX](\d+)")


def plan(
    table: Annotated[str, typer.Argument(help="ROWSxCOLUMNS, such as 262144x2048, or a hub id or model folder.")],
    method: Annotated[str, typer.Option(help=f"One of: {', '.join(METHODS)}; or A+B.")] = "tcq",
    ratio: Annotated[float | None, typer.Option(help="Table at most 1/RATIO of its size in --reference. [25]")] = None,
    bits_per_weight: Annotated[float | None, typer.Option(help="Or: at most so many bits for each entry.")] = None,
    size: Annotated[str | None, typer.Option(help="Or: at most so many bytes, such as 2MB or 800kB.")] = None,
    reference: Annotated[str | None, typer.Option(help="What a ratio is against. [float32]")] = None,
    settings: SettingsOption = None,
    machines: Annotated[int, typer.Option(help="Processes that share the rows, each on a machine like this one.")] = 1,
    bandwidth: Annotated[float, typer.Option(help="Between machines, in Gbit/s.")] = 10.0,
    dtype: Annotated[
        str | None, typer.Option(help=f"Of the table as it is loaded: {', '.join(DTYPES)}. [float32, or the model's]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what bytes, memory, traffic and time a compression will take; a table of any size need not be there.

    Fits small tables of the same width on this machine, in seconds to minutes.
    """
    rows, columns, stored = _shape(table)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}")
    made, budget = make_method(method, **parse_settings(settings or [])), Budget.ratio(25, reference or "float32")
    budget = parse_budget(ratio, bits_per_weight, size, reference) or budget
    taken = DTYPES[dtype] if dtype else stored
    found = forecast(made, rows, columns, budget, dtype=taken, machines=machines, bandwidth=bandwidth * 1e9 / 8)
    print_forecast(found, f"{rows:,} x {columns:,} in {dtype_name(taken)} by {method}, {budget}")
    few = ", ".join(f"{count:,} rows in {seconds:.1f} s" for count, seconds in found.measured.items())
    print(f"From {few}, fitted on this machine; memory beside Python and torch, which take half a gigabyte.")
    if as_json:
        print_json(asdict(found) | {"method": method, "budget": str(budget), "dtype": dtype_name(taken)})


def _shape(table: str) -> tuple[int, int, torch.dtype]:
    """Rows, columns and dtype of a shape, or of a checkpoint's table."""
    match = SHAPE.fullmatch(table)
    if match:
        return int(match[1]), int(match[2]), torch.float32
    found = find_stored_table(table)
    return *found.shape, found.dtype
