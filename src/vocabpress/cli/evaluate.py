"""`vocabpress evaluate`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from vocabpress.cli import options
from vocabpress.cli.later import Later
from vocabpress.cli.names import GLUE, TASKS

texts, library, devices = Later("vocabpress.texts"), Later("vocabpress.evaluate"), Later("vocabpress.hf.compress")
printing = Later("vocabpress.cli.printing")


def evaluate(
    model: options.ModelArgument,
    task: Annotated[
        list[str],
        typer.Option(help=f"One of {', '.join(TASKS)}, or glue for all nine tasks of GLUE. May be repeated."),
    ],
    against: Annotated[str | None, typer.Option(help="The original: a hub id or a folder.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the data sets, laid out as in docs/evaluate.md.")] = None,
    text: Annotated[
        list[str] | None, typer.Option("--text", help=f"{options.TEXT}, for tasks that read text. May be repeated.")
    ] = None,
    subset: Annotated[
        int | None, typer.Option(help="Use only this many lines or training rows, in tasks that can.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of tasks that train.")] = None,
    seeds: Annotated[int, typer.Option(help="Runs of each task that depends on a seed, with seeds 0, 1, ...")] = 1,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="task.field=value, or field=value for all chosen tasks with this field. May be repeated."
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="Device: cpu, cuda, cuda:1.")] = "cpu",
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for the results, one JSON file per task and seed.")
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(help="Folder for the fine-tuned models, TASK-seedN; they can be teachers in recover --task."),
    ] = None,
    as_json: options.JsonOption = False,
) -> None:
    """Evaluate a model, compressed or not.

    reconstruction compares its table with the original's (--against). similarity ranks word pairs by the table alone
    (--data). agreement compares hidden states and predictions with the original's on any text (--against, --text). mlm
    and clm are perplexities of masked and causal language models, with --against also the divergence from the
    original's predictions (--text). generation times a causal model and shows its answers to fixed prompts. sts ranks
    pairs of sentences, retrieval finds the paragraph of a question (--data). The tasks of GLUE and SQuAD fine-tune
    first (--data).

    With --against, each task also runs on the original, and the results and their difference are shown. With
    --output, results of earlier runs with the same settings are reused.
    """
    model, against = options.located(model), None if against is None else options.located(against)
    chosen = choose_tasks(task, options.parse_settings(settings), {"subset": subset, "epochs": epochs})
    if seeds < 1:
        raise ValueError(f"--seeds is the number of runs, at least 1, got {seeds}")
    if seeds > 1 and not any(each.seeded for each in chosen.values()):
        raise ValueError(f"--seeds {seeds}: no chosen task depends on the seed; leave it out")
    if keep is not None and not any(each.fine_tunes for each in chosen.values()):
        raise ValueError(f"--keep {keep}: no chosen task fine-tunes the model; leave it out")
    if output is not None and output.exists() and not output.is_dir():
        raise ValueError(f"the output {output} exists and is a file; give the name of a folder")
    devices.check_device(device)
    common: dict[str, Any] = {
        "data": data,
        "text": texts.sources(text or ()),
        "seeds": range(seeds),
        "device": device,
        "progress": True,
    }
    results = library.evaluate(model, chosen, against=against, output=output, keep=keep, **common)
    before = []
    if against is not None:
        tasks = {name: each for name, each in chosen.items() if not each.compares}
        place = None if output is None else output / "original"
        before = library.evaluate(against, tasks, output=place, **common)
    printing.print_results(results, before)
    if as_json:
        originals = {"original": [asdict(result) for result in before]} if against is not None else {}
        options.print_json({"results": [asdict(result) for result in results], **originals})


def choose_tasks(names: Sequence[str], settings: Mapping[str, str], shared: Mapping[str, Any]) -> dict[str, Any]:
    """Make the tasks by name, ``glue`` for all nine, with ``settings`` of ``task.field`` or ``field``.

    Options in ``shared`` that are not None set the field of the same name.
    """
    tasks = dict.fromkeys(each for name in names for each in (GLUE if name == "glue" else (name,)))
    per_task: dict[str, dict[str, Any]] = {name: {} for name in tasks}
    known = {name: {field.name for field in fields(library.make_task(name))} for name in tasks}
    options = {f"--{name}": (name, value) for name, value in shared.items() if value is not None}
    options |= {f"--set {name}": (name, value) for name, value in settings.items()}
    for option, (name, value) in options.items():
        task, dot, field = name.partition(".")
        affected = [task] if dot else [each for each in tasks if name in known[each]]
        if not affected or (dot and task not in per_task):
            raise ValueError(f"{option}: {f'{task} is not a chosen task' if dot else 'no chosen task has this field'}")
        for each in affected:
            per_task[each][field if dot else name] = value
    return {name: library.make_task(name, **values) for name, values in per_task.items()}
