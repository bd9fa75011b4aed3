"""The files of GLUE and of three out-of-distribution data sets: where the sentences and the labels are.

The folders are those that GLUE distributes (Wang et al., ICLR 2019; https://gluebenchmark.com/tasks), tab-separated
without quoting; without a folder the same data come from the hub (``nyu-mll/glue``). Test splits have no labels and are
never read.

The out-of-distribution data sets are those of KroneckerBERT (Tahaei et al., NAACL 2022): PAWS for MRPC (Zhang et al.,
2019), IMDb for SST-2 (Maas et al., 2011), HANS for RTE (McCoy et al., 2019). They are never trained on.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocabpress.evaluate.cells import read_cells, read_score
from vocabpress.evaluate.finetuned.training import need
from vocabpress.evaluate.task import Subject

if TYPE_CHECKING:
    from datasets import Dataset

TEXTS = ("text", "text_pair")  # our columns, named as arguments of tokenizers
BINARY = ("0", "1")
INFERENCE = ("entailment", "not_entailment")
CORRUPT = 1000  # QQP is distributed with truncated rows; up to one in so many is left out, as in the hub's copy


@dataclass(frozen=True)
class GlueFiles:
    """The files of a task."""

    folder: str  # GLUE's name; the lower-case name is also found
    sentences: tuple[str, ...]  # columns of the one or two sentences
    label: str  # column of the label
    classes: tuple[str, ...]  # the labels in the order of their numbers; empty for scores from 0 to 5
    hub_sentences: tuple[str, ...] = ()  # columns of the sentences on the hub; empty if the names are equal
    header: tuple[str, ...] = ()  # columns of a file that has no header
    dev: tuple[str, ...] = ("dev",)  # names of the development files, without ``.tsv``
    corrupt: bool = False  # whether the distributed file has truncated rows

    @property
    def texts(self) -> tuple[str, ...]:
        """Our columns of the sentences."""
        return TEXTS[: len(self.sentences)]


TWO_SENTENCES = ("sentence1", "sentence2")
LAYOUTS: dict[str, GlueFiles] = {
    "cola": GlueFiles("CoLA", ("sentence",), "label", BINARY, header=("source", "label", "author", "sentence")),
    "sst2": GlueFiles("SST-2", ("sentence",), "label", BINARY),
    "mrpc": GlueFiles("MRPC", ("#1 String", "#2 String"), "Quality", BINARY, TWO_SENTENCES),
    "stsb": GlueFiles("STS-B", TWO_SENTENCES, "score", ()),
    "qqp": GlueFiles("QQP", ("question1", "question2"), "is_duplicate", BINARY, corrupt=True),
    "mnli": GlueFiles(
        "MNLI",
        TWO_SENTENCES,
        "gold_label",
        ("entailment", "neutral", "contradiction"),
        ("premise", "hypothesis"),
        dev=("dev_matched", "dev_mismatched"),
    ),
    "qnli": GlueFiles("QNLI", ("question", "sentence"), "label", INFERENCE),
    "rte": GlueFiles("RTE", TWO_SENTENCES, "label", INFERENCE),
    "wnli": GlueFiles("WNLI", TWO_SENTENCES, "label", BINARY),
}
OTHER_DATA = {  # task -> metric, path, and layout; None for IMDb's folder
    "mrpc": ("paws_accuracy", "PAWS/test.tsv", GlueFiles("PAWS", TWO_SENTENCES, "label", BINARY)),
    "sst2": ("imdb_accuracy", "aclImdb/test", None),
    "rte": (
        "hans_accuracy",
        "HANS/heuristics_evaluation_set.txt",
        GlueFiles("HANS", TWO_SENTENCES, "gold_label", ("entailment", "non-entailment")),
    ),
}


def read_glue(name: str, subject: Subject) -> "tuple[Dataset, dict[str, Dataset]]":
    """Training rows, and development rows by the names of their files, with columns as in `read_rows`.

    Without a folder of data sets they are the hub's.
    """
    layout, read = LAYOUTS[name], {}
    hub = load_hub("nyu-mll/glue", name) if subject.data is None else {}
    columns = dict(zip(layout.hub_sentences or layout.sentences, layout.texts, strict=True)) | {"label": "labels"}
    for split in ("train", *layout.dev):
        if subject.data is None:
            rows = hub[split.replace("dev", "validation")]
            read[split] = rows.select_columns(list(columns)).rename_columns(columns)
        else:
            names = (f"{folder}/{split}.tsv" for folder in (layout.folder, layout.folder.lower()))
            read[split] = read_rows(subject.file(*names), layout)
    return read.pop("train"), read


def read_rows(file: Path, layout: GlueFiles) -> "Dataset":
    """The rows of one file: ``text``, ``text_pair`` if there are two sentences, and ``labels``.

    Raises:
        ValueError: If the file does not have the layout, with its name and line.
    """
    columns, cut_short, read = list(layout.header), list[str](), list[dict[str, Any]]()
    for where, cells in read_cells(file):
        if not columns:
            columns = cells
            missing = [name for name in (*layout.sentences, layout.label) if name not in columns]
            if missing:
                first = "\t".join(cells)[:60]
                raise ValueError(
                    f"{file} has no column {missing[0]!r}, its first line is {first!r}; "
                    "give GLUE's own file, tab-separated with a header"
                )
        elif len(cells) != len(columns):
            cut_short.append(
                f"{where}: {len(cells)} columns of {len(columns)}; the row is cut short, or not separated by tabs"
            )
        else:
            row = dict(zip(columns, cells, strict=True))
            texts = {name: row[column] for name, column in zip(layout.texts, layout.sentences, strict=True)}
            label = row[layout.label]
            if layout.classes and label not in layout.classes:
                raise ValueError(f"{where}: unknown label {label!r}; it is one of {', '.join(layout.classes)}")
            number = layout.classes.index(label) if layout.classes else read_score(label, 5, where)
            read.append({**texts, "labels": number})
    if cut_short and not (layout.corrupt and len(cut_short) * CORRUPT <= len(read)):
        raise ValueError(cut_short[0])
    if not read:
        raise ValueError(f"{file} holds no rows; give GLUE's own file")
    return need("datasets").Dataset.from_list(read)


def read_other_data(task: str, data: Path | None) -> "dict[str, Dataset]":
    """Rows of a GLUE task's out-of-distribution data set by the name of its metric; empty if there is no folder."""
    metric, name, layout = OTHER_DATA.get(task, ("", "", None))
    if data is None or not name or not (data / name.split("/")[0]).is_dir():
        return {}
    if layout is None:
        return {metric: _read_imdb(data / name)}
    if not (data / name).is_file():
        raise ValueError(f"{(data / name).parent} has no {(data / name).name}; put it there, or remove the folder")
    return {metric: read_rows(data / name, layout)}


def _read_imdb(folder: Path) -> "Dataset":
    texts, labels = list[str](), list[int]()
    for label, part in enumerate(("neg", "pos")):
        files = sorted((folder / part).glob("*.txt"))
        if not files:
            raise ValueError(f"{folder / part} holds no reviews (*.txt); unpack aclImdb whole, or remove the folder")
        for file in files:
            try:
                texts.append(file.read_text(encoding="utf-8").replace("<br />", " "))
            except UnicodeDecodeError:
                raise ValueError(f"{file} is not UTF-8 text; unpack aclImdb again") from None
        labels += [label] * len(files)
    return need("datasets").Dataset.from_dict({"text": texts, "labels": labels})


def load_hub(repository: str, configuration: str | None = None) -> Any:
    """A data set of the hub: split -> its rows; a ValueError if the download fails."""
    library = need("datasets")
    try:
        return library.load_dataset(repository, configuration)
    except Exception as error:  # the network, the hub and the cache fail in many ways
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"can't download {repository} ({reason}); give the folder of the data sets with --data"
        ) from None
