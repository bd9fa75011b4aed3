"""`vocabpress plan`: what a compression of a table of any size will take; of a model, `compress --dry-run` says it."""

import re
from typing import Annotated

import typer

from vocabpress.cli.compress import chosen_method, foretell, foretell_shape, parse_budget
from vocabpress.cli.later import Later
from vocabpress.cli.names import DTYPES, METHODS
from vocabpress.cli.options import (
    BitsOption,
    JsonOption,
    RatioOption,
    ReferenceOption,
    SettingsOption,
    SizeOption,
    located,
    parse_settings,
)

SHAPE = re.compile(r"(\d+)[xX](\d+)")

budgets, methods = Later("vocabpress.budget"), Later("vocabpress.methods")


def plan(
    table: Annotated[str, typer.Argument(help="ROWSxCOLUMNS, such as 262144x2048, or a hub id or model folder.")],
    method: Annotated[
        str | None,
        typer.Option(
            help=f"One of: {', '.join(METHODS)}; or A+B. [as compress would take; of a shape alone tcq, or fastscan "
            "with --tied]"
        ),
    ] = None,
    ratio: RatioOption = None,
    bits_per_weight: BitsOption = None,
    size: SizeOption = None,
    reference: ReferenceOption = None,
    settings: SettingsOption = None,
    tied: Annotated[bool, typer.Option("--tied", help="Of a shape: an output head is tied to the table.")] = False,
    machines: Annotated[int, typer.Option(help="Processes that share the rows, each on a machine like this one.")] = 1,
    bandwidth: Annotated[float, typer.Option(help="Between machines, in Gbit/s.")] = 10.0,
    dtype: Annotated[
        str | None, typer.Option(help=f"Of a shape, as it would be loaded: {', '.join(DTYPES)}. [float32]")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what bytes, memory, traffic and time a compression will take; a table of any size need not be there.

    Fits small tables of the same width on this machine, in seconds to minutes. Of a model, compress --dry-run does
    the same.
    """
    match = SHAPE.fullmatch(table)
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"unknown dtype {dtype!r}; choose from {', '.join(DTYPES)}")
    if match is None and (dtype is not None or tied):
        raise ValueError("--dtype and --tied are of a shape; a model has its own, so leave them out")
    model = table if match is not None else located(table)
    budget = parse_budget(ratio, bits_per_weight, size, reference) or budgets.Budget.ratio(25, reference or "float32")
    fields, circumstances = parse_settings(settings or []), {"machines": machines, "bandwidth": bandwidth * 1e9 / 8}
    if match is None:
        foretell(model, chosen_method(model, method, fields), budget, as_json=as_json, **circumstances)
        return
    made = methods.make_method(method or ("fastscan" if tied else "tcq"), **fields)
    shape, stored = (int(match[1]), int(match[2])), budgets.DTYPES[dtype or "float32"]
    foretell_shape(shape, stored, made, budget, as_json=as_json, **circumstances)
