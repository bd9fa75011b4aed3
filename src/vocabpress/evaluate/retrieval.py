"""Retrieval: does a sentence encoder find the paragraph that a question is about?

The files are SQuAD's or those of XQuAD (Artetxe et al., ACL 2020), one for each language. The distinct paragraphs of a
file are the corpus, and a question's own paragraph is the right one. A paragraph with the same cosine as the right one
counts as better, so that an encoder whose vectors are all equal finds nothing. Ranks are exact, over the whole corpus;
the searches of sentence-transformers return the first k.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vocabpress.evaluate.questions import read_layout
from vocabpress.evaluate.sentences import embed, open_encoder
from vocabpress.evaluate.task import Measurement, Subject, Task
from vocabpress.progress import Bar

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

FOLDERS = ("squad-xquad-en", "xquad")
QUERY, PASSAGE = ("query",), ("document", "passage", "corpus")  # names of a model's own prompts


@dataclass(frozen=True)
class ParagraphRetrieval(Task):
    """Task ``retrieval``."""

    languages: str | None = None  # separated by commas, ``en`` for ``xquad.en.json``; None takes all
    query_prefix: str | None = None  # text before each question; None takes the model's own prompt for queries
    passage_prefix: str | None = None  # text before each paragraph; None takes the model's own for documents

    def measure(self, subject: Subject) -> Measurement:
        files = self.read(subject)
        encoder = open_encoder(subject.model, subject.device)
        prefixes = {
            "query": own_prompt(encoder, QUERY) if self.query_prefix is None else self.query_prefix,
            "passage": own_prompt(encoder, PASSAGE) if self.passage_prefix is None else self.passage_prefix,
        }
        scores = {}
        for language in Bar(list(files), desc="retrieval", disable=not subject.progress):
            scores[language] = found_paragraphs(encoder, files[language], prefixes, subject.progress)
        metrics = {name: sum(each[name] for each in scores.values()) / len(scores) for name in ("top1", "mrr")}
        metrics |= {f"{name}_{language}": scores[language][name] for name in metrics for language in scores}
        return Measurement(metrics, {"files": scores, "prefixes": prefixes})

    def read(self, subject: Subject) -> dict[str, list[dict[str, Any]]]:
        """Language -> its questions; a ValueError if a file is missing or invalid."""
        data = subject.file(*FOLDERS).parent
        places: dict[str, Path] = {}
        for file in (file for name in FOLDERS for file in sorted(data.glob(f"{name}/*.json"))):
            language = file.stem.removeprefix("xquad.")
            if language in places:
                raise ValueError(f"{places[language]} and {file} are of one language, {language}; remove one of them")
            places[language] = file
        if not places:
            wanted = " and no ".join(f"{name}/*.json" for name in FOLDERS)
            raise ValueError(f"{data} has no {wanted}; put files in SQuAD's layout there, one for each language")
        chosen = list(places) if self.languages is None else [name.strip() for name in self.languages.split(",")]
        unknown = [name for name in chosen if name not in places]
        if unknown:
            raise ValueError(f"{data} has no questions in {unknown[0]!r}; choose languages from {', '.join(places)}")
        return {name: read_layout(places[name]) for name in chosen}


def own_prompt(encoder: "SentenceTransformer", names: tuple[str, ...]) -> str:
    """The first prompt of these names that is not empty, from ``config_sentence_transformers.json``; else no text.

    `SentenceTransformer.encode_document` would take an empty ``document`` over a model's ``passage``.
    """
    return next((prompt for name in names if (prompt := encoder.prompts.get(name))), "")


def found_paragraphs(
    encoder: "SentenceTransformer", questions: list[dict[str, Any]], prefixes: dict[str, str], progress: bool = False
) -> dict[str, float]:
    """``top1``, the share of questions whose paragraph is nearest, and ``mrr``, the mean reciprocal rank, times 100.

    Also the numbers of ``questions`` and ``paragraphs``. ``prefixes`` are texts before each ``query`` and ``passage``.
    """
    place = {context: row for row, context in enumerate(dict.fromkeys(each["context"] for each in questions))}
    asked = embed(encoder, [each["question"] for each in questions], progress, "query", prefixes["query"])
    paragraphs = embed(encoder, list(place), progress, "document", prefixes["passage"])
    cosines = asked @ paragraphs.T
    right = cosines[range(len(questions)), [place[each["context"]] for each in questions]]
    ranks = (cosines >= right[:, None]).sum(1).double()
    scores = {"top1": 100 * float((ranks == 1).double().mean()), "mrr": 100 * float((1 / ranks).mean())}
    return {"questions": len(questions), "paragraphs": len(place), **scores}
