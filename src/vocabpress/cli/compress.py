"""`vocabpress compress`."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from vocabpress.cli import options
from vocabpress.cli.later import Later
from vocabpress.cli.names import BODIES, METHODS, PRESETS

budgets, methods, forecasts = Later("vocabpress.budget"), Later("vocabpress.methods"), Later("vocabpress.forecast")
library, qualities = Later("vocabpress.job.compress"), Later("vocabpress.job.quality")
slices, requests, progress = Later("vocabpress.hf.slices"), Later("vocabpress.hf.request"), Later("vocabpress.progress")
printing, processes = Later("vocabpress.cli.printing"), Later("vocabpress.cli.together")
DEFAULT = "tcq"


def compress(
    model: options.ModelArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder to make; must not exist, or be empty.")
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help=f"One of: {', '.join(METHODS)}; A+B, where B compresses the residual of A; or blockwise:A, A for "
            "each block of tokens by weight. [tcq]"
        ),
    ] = None,
    quality: Annotated[
        float | None,
        typer.Option(
            help="The smallest table that leaves at least this much, of 100, of what the model is for: 100 x mean "
            "cosine of sentence embeddings, or 100 exp(-KL) of predictions. [99]"
        ),
    ] = None,
    ratio: options.RatioOption = None,
    bits_per_weight: options.BitsOption = None,
    size: options.SizeOption = None,
    reference: options.ReferenceOption = None,
    linears: Annotated[
        list[str] | None,
        typer.Option(
            help="Also store linear maps as Kronecker products: attention=N1xM1 or ffn=N1xM1, columns and rows of "
            "the left factor, such as 48x384 or 1/16x1/2 of the map's sides; terms=N, factors=int8. May be repeated."
        ),
    ] = None,
    preset_name: Annotated[
        str | None,
        typer.Option("--preset", help=f"Instead of method, ratio and linears, as published: {', '.join(PRESETS)}."),
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            help=f"{options.TEXT}; the tokens and directions that matter in it are stored more exactly. "
            "May be repeated."
        ),
    ] = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="A file of vocabpress calibrate; or uniform, equal weights; or vocabulary-order, the default without "
            "--text."
        ),
    ] = None,
    settings: options.SettingsOption = None,
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Don't measure what the compression changes; then --ratio 25.")
    ] = False,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--recover", help="Minutes of training against the original after the fit, at most. [no training]"
        ),
    ] = None,
    body: Annotated[
        str | None,
        typer.Option(
            help=f"Also compress all other weights: {', '.join(BODIES)}. trellis codes all linear maps layer by layer; "
            "int8 is torchao's. [unchanged]"
        ),
    ] = None,
    body_bits: Annotated[
        float | None,
        typer.Option(help="Bits of a weight with --body trellis: 1, 1.5, 2, 2.5, 3, 3.5, 4, 5, 6 or 8. [3]"),
    ] = None,
    model_size: Annotated[
        str | None,
        typer.Option(help="Bytes of the weight file, such as 4MB, shared out over the table and all linear maps."),
    ] = None,
    model_ratio: Annotated[
        float | None,
        typer.Option(help="The same, as the bytes of the original's weight files over those of the new one: 20."),
    ] = None,
    model_quality: Annotated[
        float | None,
        typer.Option(help="The smallest weight file of at most three that keeps the whole model so good: 97."),
    ] = None,
    tie: Annotated[
        bool, typer.Option("--tie", help="Tie an output head that is stored separately and equals the table.")
    ] = False,
    fast_tokenizer_only: Annotated[
        bool,
        typer.Option(
            "--fast-tokenizer-only",
            help="Leave out vocab.txt, merges.txt and the like, where tokenizer.json holds the same vocabulary.",
        ),
    ] = False,
    seed: Annotated[int, typer.Option(help="Seed of the random generator.")] = 0,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda, cuda:1.")] = "cpu",
    revision: options.RevisionOption = None,
    trust_remote_code: options.TrustOption = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the bytes and the time that it would take, and write nothing.")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Compress the token table of a model, and write a checkpoint that from_pretrained loads.

    Under torchrun all processes fit one table together, each a part of its rows.
    """
    budget = parse_budget(ratio, bits_per_weight, size, reference, quality)
    fields = options.parse_settings(settings)
    if output is None and not dry_run:
        raise ValueError("Missing option '-o' / '--output': the folder to make")
    model = options.located(model, revision)
    if preset_name is None and reference is not None and ratio is None:
        raise ValueError("--reference is what a ratio is against; give --ratio, or leave it out")
    if preset_name is None:
        chosen: dict[str, Any] = {
            "method": methods.make_method(method or DEFAULT, **fields) if method or fields else None,
            "budget": budget,
            "quality": quality,
            "linears": requests.LinearShapes.read(options.parse_settings(linears, "--linears")) if linears else None,
        }
    elif method is not None or budget is not None or quality is not None or reference is not None or linears:
        raise ValueError(f"--preset {preset_name} sets method, size and linear maps; give it, or give them")
    else:
        chosen = requests.preset(preset_name, **fields)
    if dry_run:
        show_forecast(model, chosen["method"], chosen["budget"], chosen.get("quality"), as_json)
        return
    if text or calibration is not None:
        chosen["calibration"] = calibration
    with processes.together(device) as shards:
        report = library.compress(
            model,
            output,
            **chosen,
            text=text or (),
            measure=not no_measure,
            recover=minutes,
            body=body,
            body_bits=body_bits,
            model_size=model_size,
            model_ratio=model_ratio,
            model_quality=model_quality,
            tie=tie,
            fast_tokenizer_only=fast_tokenizer_only,
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
        options.print_json(asdict(report))


def show_forecast(model: str, method: Any, budget: Any, quality: float | None, as_json: bool) -> None:
    """What `--dry-run` prints. Without a size it is about the first fit of the search for a quality."""
    stored = slices.find_stored_table(model)
    method = (method or methods.make_method(DEFAULT)).for_head(stored.ties_head)
    name, kind = methods.method_name(method), budgets.dtype_name(stored.dtype)
    size = str(budget)
    if budget is None:
        wanted = qualities.check_quality(quality or qualities.DEFAULT)
        budget = budgets.Budget.bits_per_weight(round(qualities.first_bits(wanted, stored.ties_head), 4))
        size = f"{budget}, the start of the search for quality {wanted:g}"
    found = forecasts.forecast(method, stored.rows(0, stored.shape[0]), budget)
    seconds = f"{name} can't predict it" if found.seconds is None else progress.duration(found.seconds)
    rows = [
        ("table", printing.size(found.table_bytes)),
        ("compressed table, at most", printing.size(found.stored_bytes)),
        ("time of the fit", seconds),
    ]
    printing.print_table(["", ""], rows, f"{found.rows:,} x {found.columns:,} in {kind} by {name}, {size}")
    if as_json:
        options.print_json(asdict(found) | {"method": name, "budget": str(budget), "dtype": kind})


def parse_budget(
    ratio: float | None,
    bits_per_weight: float | None,
    size: str | None,
    reference: str | None,
    quality: float | None = None,
) -> Any:
    """The budget of the options, if there is one; a ValueError if there are several, or a reference without a ratio."""
    options = {"--quality": quality, "--ratio": ratio, "--bits-per-weight": bits_per_weight, "--size": size}
    given = [name for name, value in options.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} both say how small; give one")
    if reference is not None and given and ratio is None:
        raise ValueError(f"--reference is what a ratio is against; leave it out beside {given[0]}")
    if ratio is not None:
        return budgets.Budget.ratio(ratio, reference or "float32")
    if bits_per_weight is not None:
        return budgets.Budget.bits_per_weight(bits_per_weight)
    return None if size is None else budgets.Budget.bytes(size)
