"""Semantic textual similarity: does the cosine of two sentences rank pairs as people do?

Spearman correlation times 100, the convention of SentEval and MTEB. STS-B (Cer et al., SemEval 2017) is one file a
split. A year of SemEval 2012 to 2016 (Agirre et al.) has several files. Their pairs are ranked together, the "all"
setting of SimCSE (Gao et al., EMNLP 2021); the details have each file.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vocabpress.evaluate.pairs import SEMEVAL, STSB, ScoredPair, rank_agreement, read_pairs
from vocabpress.evaluate.sentences import open_encoder, pair_cosines
from vocabpress.evaluate.task import Measurement, Subject, Task

YEARS = ("2012", "2013", "2014", "2015", "2016")
ALL_YEARS = "years"
SETS = ("stsb", *(f"sts{year[2:]}" for year in YEARS))


@dataclass(frozen=True)
class SentenceSimilarity(Task):
    """Task ``sts``."""

    split: Literal["dev", "test", "train"] = "dev"  # of STS-B; take ``test`` only for a final score
    # Separated by commas: ``stsb``, ``sts12`` to ``sts16``, or ``years`` for all years in the folder.
    sets: str = f"stsb,{ALL_YEARS}"

    def __post_init__(self) -> None:
        super().__post_init__()
        unknown = [name for name in self.names() if name not in (*SETS, ALL_YEARS)]
        if unknown or not self.names():
            choices = ", ".join((*SETS, ALL_YEARS))
            raise ValueError(f"unknown set {(unknown or [''])[0]!r} of STS; choose from {choices}")

    def names(self) -> list[str]:
        return [name.strip() for name in self.sets.split(",") if name.strip()]

    def measure(self, subject: Subject) -> Measurement:
        sets = self.read(subject)
        pairs = [pair for files in sets.values() for part in files.values() for pair in part]
        encoder = open_encoder(subject.model, subject.device)
        first, second, _ = zip(*pairs, strict=True)
        cosines = pair_cosines(encoder, first, second, subject.progress)
        metrics, by_file, start = {}, {}, 0
        for name, files in sets.items():
            begin = start
            for file, part in files.items():
                spearman = rank_agreement(cosines[start : start + len(part)], part)
                by_file[file] = {"pairs": len(part), "spearman": spearman}
                start += len(part)
            metrics[name] = rank_agreement(cosines[begin:start], pairs[begin:start])
        if len(metrics) > 1:
            metrics["mean"] = sum(metrics.values()) / len(metrics)
        return Measurement(metrics, {"files": by_file})

    def read(self, subject: Subject) -> dict[str, dict[str, list[ScoredPair]]]:
        """Metric -> file -> its pairs; a ValueError if a set is missing or a file is not whole."""
        found: dict[str, dict[str, list[ScoredPair]]] = {}
        data = subject.data or Path()
        years = [year for year in YEARS if any((data / "semeval-sts" / year).glob("*.test.tsv"))]
        for name in self.names():
            if name == "stsb":
                file = subject.file(f"stsbenchmark/sts-{self.split}.tsv")
                found[f"stsb_{self.split}"] = {file.name: read_pairs(file, STSB)}
                continue
            for year in years if name == ALL_YEARS else [f"20{name[3:]}"]:
                folder = subject.file(f"semeval-sts/{year}")
                files = sorted(folder.glob("*.test.tsv"))
                if not files:
                    raise ValueError(f"{folder} holds no *.test.tsv; put SemEval's test files there")
                found[f"sts{year[2:]}"] = {f"{year}/{file.name}": read_pairs(file, SEMEVAL) for file in files}
        if not found:
            raise ValueError(f"{subject.data} has none of the sets {self.sets!r}; give the folder that holds them")
        return found
