"""GLUE's files: where each task keeps its sentences and its label, and how they are read.

Read are the folders that GLUE distributes (Wang et al., ICLR 2019; https://gluebenchmark.com/tasks), tab-separated with
quoting off, or the same data from the hub (``nyu-mll/glue``). Test splits have no labels there and are never read.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocabpress.evaluate.task import Subject

Row = tuple[str, str | None, float]  # sentence, second sentence, class or score
BINARY = ("0", "1")
INFERENCE = ("entailment", "not_entailment")
CORRUPT = 1000  # QQP is distributed with a few rows cut short; one in so many is left out, as the hub's copy does


@dataclass(frozen=True)
class Layout:
    """Where a task's rows lie.

    Attributes:
        folder: As GLUE calls it; the lower-case name is found, too.
        first: Column of the sentence.
        second: Column of the second sentence, where there is one.
        label: Column of the label.
        classes: The labels in the order of their numbers; empty for scores from 0 to 5.
        hub: The hub's name of the task.
        hub_columns: The hub's columns of the sentences.
        header: Columns of a file that has no header.
        dev: Names of the development files, without ``.tsv``, to the hub's names of those splits.
        corrupt: Whether rows that are cut short are known of.
    """

    folder: str
    first: str
    second: str | None
    label: str
    classes: tuple[str, ...]
    hub: str
    hub_columns: tuple[str, ...]
    header: tuple[str, ...] = ()
    dev: tuple[tuple[str, str], ...] = (("dev", "validation"),)
    corrupt: bool = False


def _pair(folder: str, first: str, second: str, label: str, classes: tuple[str, ...], **more: Any) -> Layout:
    return Layout(folder, first, second, label, classes, **{"hub_columns": (first, second), **more})


SENTENCES = ("sentence1", "sentence2")
LAYOUTS: dict[str, Layout] = {
    "cola": Layout(
        "CoLA", "sentence", None, "label", BINARY, "cola", ("sentence",), ("source", "label", "author", "sentence")
    ),
    "sst2": Layout("SST-2", "sentence", None, "label", BINARY, "sst2", ("sentence",)),
    "mrpc": _pair("MRPC", "#1 String", "#2 String", "Quality", BINARY, hub="mrpc", hub_columns=SENTENCES),
    "stsb": _pair("STS-B", "sentence1", "sentence2", "score", (), hub="stsb"),
    "qqp": _pair("QQP", "question1", "question2", "is_duplicate", BINARY, hub="qqp", corrupt=True),
    "mnli": _pair(
        "MNLI",
        "sentence1",
        "sentence2",
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        hub="mnli",
        hub_columns=("premise", "hypothesis"),
        dev=(("dev_matched", "validation_matched"), ("dev_mismatched", "validation_mismatched")),
    ),
    "qnli": _pair("QNLI", "question", "sentence", "label", INFERENCE, hub="qnli"),
    "rte": _pair("RTE", "sentence1", "sentence2", "label", INFERENCE, hub="rte"),
    "wnli": _pair("WNLI", "sentence1", "sentence2", "label", BINARY, hub="wnli"),
}


def read_task(name: str, subject: Subject) -> tuple[list[Row], dict[str, list[Row]]]:
    """Training rows, and development rows under the names of their files.

    Args:
        name: A key of LAYOUTS.
        subject: Says where the data is; the hub where it says nothing.

    Raises:
        ValueError: If a file is missing or not as GLUE has it, with its name and line; or if the hub can't be reached.
    """
    layout = LAYOUTS[name]
    if subject.data is None:
        splits = load_hub("nyu-mll/glue", layout.hub)
        return _from_hub(layout, splits["train"]), {own: _from_hub(layout, splits[hubs]) for own, hubs in layout.dev}
    places = {
        split: subject.file(f"{layout.folder}/{split}.tsv", f"{layout.folder.lower()}/{split}.tsv")
        for split in ("train", *(own for own, _ in layout.dev))
    }
    rows = {split: read_rows(place, layout) for split, place in places.items()}
    return rows.pop("train"), rows


def read_rows(file: Path, layout: Layout) -> list[Row]:
    """The rows of one file.

    Raises:
        ValueError: If the file is not as the layout says, with its name and line.
    """
    rows: list[Row] = []
    cut: list[str] = []
    for number, cells in read_cells(file, layout.header, (layout.first, layout.second, layout.label)):
        if isinstance(cells, str):
            cut.append(cells)
            continue
        label = _label(cells[layout.label], layout.classes, f"{file}, line {number}")
        rows.append((cells[layout.first], None if layout.second is None else cells[layout.second], label))
    if cut and not (layout.corrupt and len(cut) * CORRUPT <= len(rows)):
        raise ValueError(cut[0])
    if not rows:
        raise ValueError(f"{file} holds no rows; give GLUE's own file")
    return rows


def read_cells(
    file: Path, header: Sequence[str], needed: Sequence[str | None]
) -> Iterator[tuple[int, dict[str, str] | str]]:
    """Line number and cells by column of each line that is not blank; of one that is cut short, what is wrong with it.

    Args:
        file: Tab-separated, UTF-8 with or without a byte-order mark, quoting off.
        header: Columns; empty where the first line names them.
        needed: Columns that must be there; None is none.

    Raises:
        ValueError: If the file is not UTF-8, or has no such column.
    """
    columns = list(header)
    with file.open("rb") as stream:  # split at line feeds alone: sentences hold other characters that Python splits at
        for number, raw in enumerate(stream, start=1):
            try:
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError:
                raise ValueError(f"{file}, line {number}: not UTF-8; convert it, e.g. with iconv -t utf-8") from None
            cells = line.split("\t")
            if not columns:
                columns = cells
                missing = [name for name in needed if name is not None and name not in columns]
                if missing:
                    raise ValueError(
                        f"{file} has no column {missing[0]!r}, its first line is {line[:60]!r}; "
                        "give GLUE's own file, tab-separated with a header"
                    )
            elif line.strip():
                if len(cells) != len(columns):
                    message = f"{file}, line {number}: {len(cells)} columns of {len(columns)}"
                    yield number, f"{message}; the row is cut short, or not separated by tabs"
                else:
                    yield number, dict(zip(columns, cells, strict=True))


def _label(text: str, classes: Sequence[str], where: str) -> float:
    if classes:
        if text not in classes:
            raise ValueError(f"{where}: unknown label {text!r}; it is one of {', '.join(classes)}")
        return classes.index(text)
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 5:
        raise ValueError(f"{where}: unknown score {text!r}; it is a number from 0 to 5")
    return score


def load_hub(repository: str, configuration: str | None = None) -> Any:
    """A data set of the hub: name of the split -> its rows.

    Raises:
        ValueError: If ``datasets`` is not installed, or the download fails.
    """
    try:
        from datasets import load_dataset
    except ImportError:
        hint = "give the folder of the data sets with --data, or install it with: pip install 'vocabpress[train]'"
        raise ValueError(f"downloading {repository} needs datasets; {hint}") from None
    try:
        return load_dataset(repository, configuration)
    except Exception as error:  # the network, the hub and the cache fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"can't download {repository} ({reason}); give the folder of the data sets with --data"
        ) from None


def _from_hub(layout: Layout, split: Any) -> list[Row]:
    first = list(split[layout.hub_columns[0]])
    second = list(split[layout.hub_columns[1]]) if layout.second is not None else [None] * len(first)
    return list(zip(first, second, (row if layout.classes else float(row) for row in split["label"]), strict=True))
