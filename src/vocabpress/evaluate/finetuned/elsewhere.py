"""What a fine-tuned model does on data of another kind than it was trained on.

The pairs are those of KroneckerBERT (Tahaei et al., NAACL 2022): MRPC -> PAWS (Zhang et al., 2019), SST-2 -> IMDb (Maas
et al., 2011), RTE -> HANS (McCoy et al., 2019). Nothing is trained on them.
"""

from collections.abc import Callable
from pathlib import Path

from vocabpress.evaluate.finetuned.glue_data import BINARY, Layout, Row, read_rows

PAWS = Layout("PAWS", "sentence1", "sentence2", "label", BINARY, "", ())
HANS = Layout("HANS", "sentence1", "sentence2", "gold_label", ("entailment", "non-entailment"), "", ())


def _paws(data: Path) -> list[Row]:
    return read_rows(_there(data / "PAWS" / "test.tsv"), PAWS)


def _hans(data: Path) -> list[Row]:
    return read_rows(_there(data / "HANS" / "heuristics_evaluation_set.txt"), HANS)


def _imdb(data: Path) -> list[Row]:
    rows: list[Row] = []
    for label, name in enumerate(("neg", "pos")):
        folder = data / "aclImdb" / "test" / name
        files = sorted(folder.glob("*.txt"))
        if not files:
            raise ValueError(f"{folder} holds no reviews (*.txt); unpack aclImdb whole, or remove the folder")
        for file in files:
            try:
                text = file.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise ValueError(f"{file} is not UTF-8 text; unpack aclImdb again") from None
            rows.append((text.replace("<br />", " "), None, label))
    return rows


def _there(file: Path) -> Path:
    if not file.is_file():
        raise ValueError(f"{file.parent} has no {file.name}; put it there, or remove the folder")
    return file


READERS: dict[str, tuple[str, str, Callable[[Path], list[Row]]]] = {
    "mrpc": ("PAWS", "paws_accuracy", _paws),
    "sst2": ("aclImdb", "imdb_accuracy", _imdb),
    "rte": ("HANS", "hans_accuracy", _hans),
}


def read_elsewhere(name: str, data: Path | None) -> dict[str, list[Row]]:
    """Rows of the other data set of a GLUE task under the name of its metric; empty where its folder is not there.

    Args:
        name: Of the GLUE task.
        data: Folder of the data sets.

    Raises:
        ValueError: If the folder is there and not whole.
    """
    if data is None or name not in READERS:
        return {}
    folder, metric, reader = READERS[name]
    return {metric: reader(data)} if (data / folder).is_dir() else {}
