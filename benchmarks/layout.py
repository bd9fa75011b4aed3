"""Arrange the public data sets in the layouts of the tasks of `vocabpress evaluate`; see docs/finetune.md.

    python benchmarks/layout.py --shared ../shared/data/datasets --out .cache/data

Files in the right layout are linked, others are assembled. For SQuAD there are the English part of XQuAD (five
paragraphs of each of the 48 articles of SQuAD's development set) and 16 of those articles in full, with the questions
of version 2.0. All 16 titles occur in XQuAD, so there is one possible split by article: for version 1.1, train on the
16 articles and develop on XQuAD's other 32; for version 2.0, split the 16. No title and no paragraph is on both sides.
"""

import argparse
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

LINKS = {
    "CoLA/dev.tsv": "glue-cola/dev.tsv",
    **{f"{task}/{split}.tsv": f"glue-{folder}/{split}.tsv" for task, folder in
       (("MRPC", "mrpc"), ("RTE", "rte"), ("SST-2", "sst2")) for split in ("train", "dev")},
    "stsbenchmark/sts-train.tsv": "sts-benchmark/sts-train.tsv",
    "stsbenchmark/sts-dev.tsv": "sts-benchmark/sts-dev.tsv",
    "squad-xquad-en/xquad.en.json": "squad-xquad-en/xquad.en.json",
    **{f"xquad/{language}.json": f"xquad/{language}.json" for language in ("el", "es", "vi", "zh")},
}  # fmt: skip
ROWS = {  # lines that are not blank, headers not counted, as ../shared/data/README.md says
    "CoLA/train.tsv": 8551,
    "CoLA/dev.tsv": 1043,
    "MRPC/train.tsv": 3668,
    "MRPC/dev.tsv": 408,
    "RTE/train.tsv": 2490,
    "RTE/dev.tsv": 277,
    "SST-2/train.tsv": 67349,
    "SST-2/dev.tsv": 872,
    "stsbenchmark/sts-train.tsv": 5749,
    "stsbenchmark/sts-dev.tsv": 1500,
}
HEADED = ("MRPC", "RTE", "SST-2")
DEV_FIFTH = 5  # SQuAD 2.0: every fifth article, in the order of a hash of the titles, is for development
Article = dict[str, Any]


def lay_out(shared: Path, out: Path) -> Path:
    """Make the folder of data sets.

    Args:
        shared: Folder of the public copies.
        out: Folder to make; existing files of the same names are replaced.

    Returns:
        ``out``.

    Raises:
        ValueError: If a copy is missing or has another number of rows, or a paragraph of SQuAD is on both sides.
    """
    if not shared.is_dir():
        raise ValueError(f"no public data sets in {shared}; give their folder with --shared")
    for place, source in LINKS.items():
        _link(shared / source, out / place)
    for file in sorted((shared / "sts-semeval-2012-2014").glob("semeval-sts__*.test.tsv")):
        _, year, name = file.name.split("__")
        _link(file, out / "semeval-sts" / year / name)
    for file in sorted((shared / "word-similarity").glob("*.txt")):
        _link(file, out / "word-similarity" / file.name)
    parts = [_there(shared / "glue-cola" / f"{part}.tsv").read_bytes() for part in ("train_part", "val_part")]
    _write(out / "CoLA" / "train.tsv", b"".join(part.rstrip(b"\n") + b"\n" for part in parts))
    for place, wanted in ROWS.items():
        found = rows(out / place) - (place.split("/")[0] in HEADED)
        if found != wanted:
            raise ValueError(f"{out / place} has {found} rows instead of {wanted}; is the copy in {shared} whole?")
    for name, articles in squad_splits(shared).items():
        version = name.removesuffix(".json").split("-v")[1]
        data = json.dumps({"version": version, "data": articles}, ensure_ascii=False)
        _write(out / "SQuAD" / name, data.encode())
    return out


def squad_splits(shared: Path) -> dict[str, list[Article]]:
    """Name of the file -> its articles.

    Raises:
        ValueError: If a paragraph or a title is on both sides.
    """
    xquad, half = (
        json.loads(_there(shared / place).read_text(encoding="utf-8"))["data"]
        for place in ("squad-xquad-en/xquad.en.json", "squad2-dev-half/dev-v2.0.json")
    )
    titles, known = {article["title"] for article in half}, paragraphs(half)
    rest = [article for article in xquad if article["title"] not in titles and not paragraphs([article]) & known]
    ordered = sorted(half, key=lambda article: hashlib.sha256(article["title"].encode()).hexdigest())
    dev = [article for index, article in enumerate(ordered) if index % DEV_FIFTH == 0]
    train = [article for index, article in enumerate(ordered) if index % DEV_FIFTH]
    check_apart(half, rest)
    check_apart(train, dev)
    return {
        "train-v1.1.json": answerable(half),
        "dev-v1.1.json": rest,
        "train-v2.0.json": train,
        "dev-v2.0.json": dev,
    }


def paragraphs(articles: list[Article]) -> set[str]:
    """The texts of all paragraphs, with normalised white space."""
    return {" ".join(paragraph["context"].split()) for article in articles for paragraph in article["paragraphs"]}


def check_apart(train: list[Article], dev: list[Article]) -> None:
    """Check that the two share no title and no paragraph.

    Raises:
        ValueError: If they do, or one has no paragraph.
    """
    titles = [{article["title"] for article in side} for side in (train, dev)]
    texts = [paragraphs(side) for side in (train, dev)]
    if not all(texts):
        raise ValueError("no paragraph is left on one side of SQuAD; a split by article needs more articles")
    shared = (titles[0] & titles[1]) | (texts[0] & texts[1])
    if shared:
        raise ValueError(f"SQuAD's training and development sets share {len(shared)} titles and paragraphs")


def answerable(articles: list[Article]) -> list[Article]:
    """The questions that have an answer, as version 1.1 has them."""
    found = []
    for article in articles:
        with_answers = [
            {**paragraph, "qas": [{key: item[key] for key in ("id", "question", "answers")} for item in paragraph["qas"]
                                  if item["answers"]]}
            for paragraph in article["paragraphs"]
        ]  # fmt: skip
        found.append({**article, "paragraphs": [paragraph for paragraph in with_answers if paragraph["qas"]]})
    return found


def rows(file: Path) -> int:
    """Lines that are not blank."""
    with file.open("rb") as stream:
        return sum(bool(line.strip()) for line in stream)


def _there(file: Path) -> Path:
    if not file.is_file():
        raise ValueError(f"no {file}; give the folder of the public data sets with --shared")
    return file


def _link(source: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to(_there(source).resolve())


def _write(place: Path, content: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(place)


def main() -> None:
    """Read the arguments, lay out, and print the number of rows of each file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shared", type=Path, default=Path("../shared/data/datasets"))
    parser.add_argument("--out", type=Path, default=Path(".cache/data"))
    arguments = parser.parse_args()
    try:
        out = lay_out(arguments.shared, arguments.out)
    except (ValueError, OSError) as error:
        sys.exit(f"layout.py: error: {error}")
    for file in sorted(path for path in out.rglob("*.*") if path.is_file()):
        name = file.relative_to(out).as_posix()
        if file.suffix == ".json":
            articles = json.loads(file.read_text(encoding="utf-8"))["data"]
            items = [item for article in articles for paragraph in article["paragraphs"] for item in paragraph["qas"]]
            print(f"{name:40} {len(items):6} questions, {len(paragraphs(articles))} paragraphs, "
                  f"{len(articles)} articles")  # fmt: skip
        else:
            print(f"{name:40} {rows(file) - (name.split('/')[0] in HEADED):6} rows")


if __name__ == "__main__":
    main()
