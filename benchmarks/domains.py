"""Calibration on one kind of text, measured on others: writes results/domains.json.

python benchmarks/domains.py --data DIR

Trellis codes whose bits follow the frequencies of one text, on sentences of others: the cosine of sentence embeddings
with those of the original encoder. Calibration on Wikipedia uses one half of its sentences; the other half is measured.
`rare` are the sentences, of all kinds, in which the largest share of tokens does not occur in the first half.
"""

import sys
from pathlib import Path
from typing import Any

import torch
from sentence_transformers import SentenceTransformer

from bench import CACHE, prepare
from common import SAMPLE, Judge, Variant, parse, references, run_all
from vocabpress import TCQ
from vocabpress.calibrate import calibrate
from vocabpress.calibrate.counts import count_tokens
from vocabpress.evaluate.sentences import agreement, embed
from vocabpress.hf.checkpoint import open_tokenizer
from vocabpress.texts import read_lines

RATIOS = (50, 103)
COUNT, RARE = 300, 200  # sentences of a kind
WORDS = (8, 40)  # of a sentence
FLOORS = (0.5, 0.75)  # of the mean bits of an entry


def paragraphs(file: Path) -> list[str]:
    """Stretches of a text between empty lines, each in one line."""
    return [" ".join(part.split()) for part in file.read_text(encoding="utf-8").split("\n\n")]


def some(lines: list[str]) -> list[str]:
    """Lines of medium length, evenly spread."""
    fair = [line for line in lines if WORDS[0] <= len(line.split()) <= WORDS[1]]
    return fair[:: max(1, len(fair) // COUNT)][:COUNT]


def halves(shared: Path) -> tuple[Path, list[str]]:
    """A file with every other sentence of Wikipedia, for calibration, and the remaining sentences."""
    lines = (CACHE / "text" / "wikipedia-sentences.txt").read_text(encoding="utf-8").splitlines()
    file = CACHE / "text" / "wikipedia-half.txt"
    file.write_text("\n".join(lines[::2]) + "\n", encoding="utf-8")
    return file, lines[1::2]


def kinds(shared: Path, others: list[str]) -> dict[str, list[str]]:
    """Sentences by kind."""
    books = shared / "public-domain-books"
    reviews = (shared / "glue-sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return {
        "wikipedia": some(others),
        "naturalist": some(paragraphs(books / "darwin.txt")),
        "plays": some(paragraphs(books / "shakespeare.txt")),
        "reviews": some([line.split("\t")[0] for line in reviews]),
    }


def rare_ones(sentences: list[str], file: Path) -> list[str]:
    """The sentences with the largest share of tokens that do not occur in a text."""
    tokenizer = open_tokenizer(SAMPLE)
    unseen = count_tokens(read_lines([file]), tokenizer, len(tokenizer)) == 0
    ids = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in sentences]
    shares = torch.tensor([float(unseen[torch.tensor(row)].double().mean()) for row in ids])
    return [sentences[place] for place in shares.topk(RARE).indices.tolist()]


def judge_of(texts: dict[str, list[str]]) -> Judge:
    """A judge that measures each kind."""

    def judge(encoder: SentenceTransformer, original: SentenceTransformer) -> dict[str, float]:
        pairs = {kind: (embed(original, lines), embed(encoder, lines)) for kind, lines in texts.items()}
        return {f"{kind}_cosine": agreement(*pair).mean_cosine for kind, pair in pairs.items()}

    return judge


def variants(ratio: int, plan: Path, shared: Path) -> list[Variant]:
    """All variants at one ratio."""
    known: dict[str, Any] = {"text": [plan]}
    plays = {"text": [shared / "public-domain-books" / "shakespeare.txt"]}
    fourth_root = calibrate(SAMPLE, text=[plan], exponent=0.25, metric=False)
    floors = [
        Variant(f"wikipedia, min_bits {f:g} of the mean", TCQ(min_bits=f * 32 / ratio), ratio, known) for f in FLOORS
    ]
    return [
        Variant("every token alike", TCQ(), ratio),
        Variant("vocabulary order", TCQ(), ratio, {"calibration": "vocabulary-order"}),
        Variant("wikipedia", TCQ(), ratio, known),
        Variant("wikipedia, counts ** 0.25", TCQ(), ratio, {"calibration": fourth_root}),
        *floors,
        Variant("plays", TCQ(), ratio, plays),
    ]


def main() -> int:
    """Measure all variants; about a quarter of an hour on a core. Existing results are not measured again."""
    arguments = parse(__doc__)
    if not (arguments.data / "public-domain-books").is_dir():
        sys.exit(f"no public-domain-books in {arguments.data}; give the folder that holds them with --data")
    prepare(arguments.data)
    plan, others = halves(arguments.data)
    texts = kinds(arguments.data, others)
    texts["rare"] = rare_ones([line for lines in texts.values() for line in lines], plan)
    judge = judge_of(texts)
    every = [variant for ratio in RATIOS for variant in variants(ratio, plan, arguments.data)]
    run_all("domains", every, arguments.seed, judge, references("domains", arguments.seed, judge))
    return 0


if __name__ == "__main__":
    sys.exit(main())
