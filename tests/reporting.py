"""Results as `vocabpress report` reads them, made up."""

from html.parser import HTMLParser
from pathlib import Path

import pytest

from vocabpress.report.collect import collect
from vocabpress.report.page import to_page
from vocabpress.results import Result, write_results

FLOAT32 = 100_000
BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "results"
EVIL = "<script>alert(1)</script>"
TOKEN = "<img src=x onerror=alert(1)>"
PLACE = {"commit": "c" * 40, "versions": {"torch": "2.13.0"}, "python": "3.11", "uncommitted_changes": False}


def result(measured="rte", variant="svd", times=25, metrics=None, seed=0, details=None, environment=None, **settings):
    known = {"model": "m", "method": variant.split(",")[0], "ratio": times, "recovered": None, "seed": seed}
    counted = {"table": round(FLOAT32 / times), "table_float32": FLOAT32}
    return Result(
        measured,
        variant,
        known | settings,
        counted,
        metrics or {"accuracy": 70.0},
        1.5,
        details or {},
        environment or PLACE,
    )


def original(task="rte", metrics=None, **settings):
    return result(task, "original", 2, metrics, ratio=None, **settings)


def details(error, words=("king",)):
    return {
        "spectrum": [4.0, 2.0, 1.0, 0.5],
        "bound": [{"bits_per_weight": bits, "relative_error": 4.0**-bits} for bits in (0.25, 0.5, 1.0, 2.0, 4.0)],
        "deciles": [{"tokens": 5, "share": 0.1, "relative_error": error, "mean_cosine": 0.9} for _ in range(10)],
        "storage": [
            {"name": "inner.codes", "dtype": "uint8", "bytes": 3000},
            {"name": "basis.codes", "dtype": "uint8", "bytes": 900},
            {"name": "basis.scales", "dtype": "float16", "bytes": 90},
            {"name": "bias", "dtype": "float16", "bytes": 10},
        ],
        "neighbours": [{"word": w, "original": ["queen", TOKEN], "compressed": ["queen", "lamp"]} for w in words],
    }


def everything(model="m"):
    """Two of ours, one recovered, and a peer; three tasks, one of them unknown."""
    recovered = {"mode": "table", "steps": 400, "seed": 0, "steps_taken": 350, "held_out_before": 1.25}
    rows = [original("reconstruction", {"relative_error": 0.0}, model=model), original(model=model)]
    for variant, better in (("svd", 0.0), ("lighttoken", 0.1)):
        for ratio in (25, 100):
            error = 0.3 + ratio / 400 - better
            found = {"relative_error": error, "mean_cosine": 1 - error / 2}
            rows.append(
                result("reconstruction", variant, ratio, found, details=details(error, (TOKEN, "king")), model=model)
            )
            rows.append(result("rte", variant, ratio, {"accuracy": 70 - 10 * error}, model=model))
    rows.append(result("rte", "svd", 25, {"accuracy": 68.5}, recovered=recovered, model=model))
    rows.append(result("zebra", "svd", 25, {"stripes_per_metre": 12.0}, model=model))
    rows.append(result("rte", "PQ $x$ | peer", 50, {"accuracy": 64.0}, peer=True, method="pq", ratio=None, model=model))
    return rows


class Page(HTMLParser):
    """What a browser would see: tags with attributes, and the text of each."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self._open = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open and self._open.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def text(self, *but):
        return " ".join(data for tag, data in self.texts if tag not in but)


@pytest.fixture(scope="module")
def result_folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("results")
    for number, row in enumerate(everything(EVIL)):
        write_results(place / f"{number % 3}" / f"{number}.json", [row])
    return place


@pytest.fixture(scope="module")
def report_html(result_folder):
    return to_page(collect([result_folder]), "Report of <b>tables</b>")
