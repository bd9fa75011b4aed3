"""Measure peers by the same tasks as our methods: one folder of JSON files for each peer and setting.

python benchmarks/peers/run.py --model FOLDER --out RESULTS_DIR --task reconstruction --task sts --data DIR
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from coded import Coded
from torch import Tensor
from transformers.utils import logging as transformers_logging
from variants import Variant, variants

from vocabpress.evaluate import TASKS, Task, make_task
from vocabpress.evaluate.run import Labels, evaluate
from vocabpress.hf.checkpoint import load_model
from vocabpress.hf.companions import copy_companions
from vocabpress.hf.folders import find_folder, weight_bytes
from vocabpress.hf.original import Original, find_tables
from vocabpress.results import Result, read_results, write_results


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", required=True, help="the original: a folder, or a hub id")
    parser.add_argument("--out", type=Path, help="output folder, with one folder for each peer and setting")
    parser.add_argument("--task", action="append", default=[], help=f"repeatable; one of {', '.join(TASKS)}")
    parser.add_argument("--set", action="append", default=[], help="TASK.field=value; repeatable")
    parser.add_argument("--data", type=Path, help="folder of the data sets")
    parser.add_argument("--text", type=Path, action="append", default=[], help="UTF-8 text file; repeatable")
    parser.add_argument("--seed", type=int, action="append", help="for tasks that depend on one; repeatable")
    parser.add_argument("--device", default="cpu", help="where the tasks run; peers encode on the CPU")
    parser.add_argument("--only", action="append", default=[], help="start of a peer's name or family; repeatable")
    parser.add_argument("--list", action="store_true", help="print the names and stop")
    parser.add_argument("--progress", action="store_true", help="draw progress bars")
    parsed = parser.parse_args(arguments)
    if not parsed.list and (parsed.out is None or not parsed.task):
        parser.error("give --out and at least one --task, or --list")
    return parsed


def find_tasks(names: list[str], settings: list[str]) -> dict[str, Task]:
    """The tasks by name, with their settings.

    Raises:
        ValueError: If a task or a setting is unknown.
    """
    chosen: dict[str, dict[str, str]] = {name: {} for name in names}
    for entry in settings:
        place, equals, value = entry.partition("=")
        task, dot, field = place.partition(".")
        if not equals or not dot or task not in chosen:
            raise ValueError(f"--set takes TASK.field=value of a task that --task names, got {entry!r}")
        chosen[task][field] = value
    return {name: make_task(name, **fields) for name, fields in chosen.items()}


def select(known: list[Variant], only: list[str]) -> list[Variant]:
    """The peers whose name or family starts with one of the words; without words, all.

    Raises:
        ValueError: If a word matches none.
    """
    for word in only:
        if not any(variant.fits(word) for variant in known):
            raise ValueError(f"no peer starts with {word!r}; choose from {', '.join(v.name for v in known)}")
    return [variant for variant in known if not only or any(variant.fits(word) for word in only)]


def is_done(folder: Path, tasks: dict[str, Task], seeds: Sequence[int]) -> bool:
    """Whether every file that `evaluate` would write exists, so that the peer need not encode the table again."""
    files = [f"{name}-seed{s}.json" if task.seeded else f"{name}.json" for name, task in tasks.items() for s in seeds]
    return all((folder / file).exists() for file in files)


def write_stand_in(original: Path, table: Tensor, folder: Path) -> None:
    """Save the original in float32 with another input table, also in the modules tied to it.

    Args:
        original: Folder of the model.
        table: (V, d).
        folder: Where to write the checkpoint.

    Raises:
        ValueError: If the table is of another shape.
    """
    model = load_model(original).float()
    weight = Original.of(model).weight
    if weight.shape != table.shape:
        raise ValueError(f"the table of {original} is {tuple(weight.shape)}, the stand-in {tuple(table.shape)}")
    with torch.no_grad():
        weight.copy_(table)
    model.save_pretrained(folder)
    copy_companions(original, folder)


def labels_of(variant: Variant, coded: Coded, original: Path, table_bytes: int) -> Labels:
    """Labels of the results: the peer, its settings and version, and the bytes that it would store."""
    return Labels(
        variant=variant.family,
        settings={
            "method": variant.method,
            "fields": asdict(variant.peer),  # pyright: ignore[reportArgumentType]
            "peer": True,
            "peer_version": variant.peer.installed_version(),
            "ratio": None,
            "recovered": None,
        },
        bytes={"table": coded.total, "model": weight_bytes(original) - table_bytes + coded.total},
    )


def add_details(folder: Path, coded: Coded, seconds: float) -> None:
    """Add to the results the tensors that the peer would store, and the time of encoding."""
    storage = [{"name": item.name, "dtype": item.dtype, "bytes": item.bits // 8} for item in coded.storage]
    added: dict[str, Any] = {"storage": storage, "coding_seconds": seconds}
    for file in folder.glob("*.json"):
        (result,) = read_results(file)
        if "coding_seconds" not in result.details:
            write_results(file, [replace(result, details=result.details | added)])


def measure(
    variant: Variant,
    coded: Coded,
    original: Path,
    tasks: dict[str, Task],
    options: argparse.Namespace,
    table_bytes: int,
) -> list[Result]:
    """Save a dense stand-in in a temporary folder and run the tasks on it."""
    with tempfile.TemporaryDirectory() as temporary:
        write_stand_in(original, coded.table, Path(temporary))
        return evaluate(
            temporary,
            tasks,
            against=original,
            data=options.data,
            text=options.text,
            seeds=options.seed or [0],
            device=options.device,
            output=options.out / variant.folder,
            labels=labels_of(variant, coded, original, table_bytes),
            progress=options.progress,
        )


def run_variant(variant: Variant, original: Path, tasks: dict[str, Task], options: argparse.Namespace) -> None:
    """Encode, save a dense stand-in, measure it, and add the parts to the results."""
    output = options.out / variant.folder
    if is_done(output, tasks, options.seed or [0]):
        print(f"{variant.name}: already measured", flush=True)
        return
    model = load_model(original)
    info = find_tables(model)[0]
    table = Original.of(model).weight.detach().float()
    del model
    start = time.perf_counter()
    coded = variant.peer.code(table)
    seconds = time.perf_counter() - start
    try:
        results = measure(variant, coded, original, tasks, options, info.bytes)
    finally:  # also if a later task fails
        add_details(output, coded, seconds)
    ratio = table.numel() * 4 / coded.total
    print(f"{variant.name}: {coded.total:,} bytes, {ratio:.2f} times smaller, encoded in {seconds:.0f} s", flush=True)
    for result in results:
        print("  " + ", ".join([result.task, *(f"{k} {v:.4g}" for k, v in result.metrics.items())]), flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the chosen peers; exit code 2 on an error, after the others have run."""
    options = parse(arguments)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    failed = 0
    try:
        original = find_folder(options.model)
        shape = tuple(Original.of(load_model(original)).weight.shape)
        chosen = select(variants(*shape), options.only)
        tasks = find_tasks(options.task, options.set)
    except ValueError as error:
        print(f"peers: error: {error}", file=sys.stderr)
        return 2
    for variant in chosen:
        if options.list:
            print(variant.name)
            continue
        try:
            run_variant(variant, original, tasks, options)
        except ValueError as error:  # a peer that is not installed, or can't encode the shape, must not stop the others
            print(f"peers: error: {variant.name}: {error}", file=sys.stderr)
            failed = 2
    return failed


if __name__ == "__main__":
    sys.exit(main())
