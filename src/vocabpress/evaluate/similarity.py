"""Word similarity by the table alone: does the cosine of two words' rows rank pairs as people do?

A word of several tokens is the mean of their rows. No model is run. Input tables are not trained for this, so compare
with the original's values.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import cosine_similarity

from vocabpress.evaluate.pairs import WORD_PAIRS, rank_agreement, read_pairs
from vocabpress.evaluate.table import ids_of, open_table
from vocabpress.evaluate.task import Measurement, Subject, Task

FOLDER = "word-similarity"


@dataclass(frozen=True)
class WordSimilarity(Task):
    """Task ``similarity``: all files of ``word-similarity/*.txt``."""

    def measure(self, subject: Subject) -> Measurement:
        folder, tokenizer = subject.file(FOLDER), subject.tokenizer()
        sets = {  # EN-WS-353-ALL.txt is en_ws_353_all
            file.stem.lower().replace("-", "_").replace(" ", "_"): read_pairs(file, WORD_PAIRS)
            for file in sorted(folder.glob("*.txt"))
        }
        if not sets:
            raise ValueError(f"{folder} holds no *.txt; put files of word, word, score there")
        known = {
            name: [pair for pair in pairs if ids_of(tokenizer, pair.first) and ids_of(tokenizer, pair.second)]
            for name, pairs in sets.items()
        }
        known = {name: pairs for name, pairs in known.items() if len(pairs) > 1}
        if not known:
            raise ValueError(f"the tokenizer knows none of the words in {folder}; are they of the model's language?")
        metrics = {}
        for model, ending in ((subject.model, ""), (subject.against, "_original")):
            if model is not None:
                table, found = open_table(model, subject.device).dense().detach().float().cpu(), {}
                for name, pairs in known.items():
                    words = zip(*((pair.first, pair.second) for pair in pairs), strict=True)
                    rows = [torch.stack([table[ids_of(tokenizer, word)].mean(0) for word in part]) for part in words]
                    found[name] = rank_agreement(cosine_similarity(*rows, dim=-1), pairs)
                found["mean"] = sum(found.values()) / len(found)
                metrics |= {f"{name}{ending}": value for name, value in found.items()}
        used = {name: {"pairs": len(pairs), "known": len(known.get(name, ()))} for name, pairs in sets.items()}
        return Measurement(metrics, {"sets": used})
