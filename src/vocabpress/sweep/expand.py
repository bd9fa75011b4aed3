"""A plan into cells: what each does, what it needs, and a name that changes with everything its result depends on."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from vocabpress.methods import method_name, method_settings
from vocabpress.sweep.plan import Plan
from vocabpress.sweep.rows import MethodRow, RecoverPlan, TaskRow

STAGES = ("press", "recover", "measure")
DIGEST_BYTES = 5
MAX_SLUG = 40


@dataclass(frozen=True)
class Cell:
    """One process of a sweep.

    Attributes:
        name: Stem of its files: readable, then a hash of all that its result depends on.
        stage: One of `STAGES`.
        needs: Name of the cell whose model it reads; None for the original.
        job: The input of `vocabpress.sweep.cell`, as JSON.
    """

    name: str
    stage: str
    needs: str | None
    job: dict[str, Any]


@dataclass(frozen=True)
class Folders:
    """Where a sweep writes; each cell's files carry its name."""

    output: Path

    @property
    def results(self) -> Path:
        """One JSON file a cell."""
        return self.output / "results"

    def result(self, cell: str) -> Path:
        """The JSON file that says that a cell is done."""
        return self.results / f"{cell}.json"

    def model(self, cell: str) -> Path:
        """The checkpoint that a press or a recover cell makes."""
        return self.output / "models" / cell

    def log(self, cell: str) -> Path:
        """What the cell's process printed."""
        return self.output / "logs" / f"{cell}.log"

    def spec(self, cell: str) -> Path:
        """The input of the cell's process."""
        return self.output / "cells" / f"{cell}.json"

    def work(self, cell: str) -> Path:
        """What an interrupted cell goes on from."""
        return self.output / "work" / cell


@dataclass(frozen=True)
class _Subject:
    """A model that measure cells read.

    Attributes:
        cell: That makes it; None for the original.
        slug: Start of the names of its cells.
        variant: Name of the row.
        identity: All that it depends on.
        recovered: Settings of its recovery, if it had one.
    """

    cell: str | None
    slug: str
    variant: str
    identity: dict[str, Any]
    recovered: dict[str, Any] | None = None


def expand(plan: Plan) -> list[Cell]:
    """All cells of a plan, those that others need first.

    Raises:
        ValueError: If a text or counts file can't be read.
    """
    maker = _Maker(plan)
    models = [_Subject(None, "original", "original", {"model": plan.model})] if plan.include_original else []
    for row in plan.methods.values():
        for ratio in row.ratios or plan.ratios:
            for seed in plan.seeds:
                models.append(maker.compress(row, ratio, seed))
                if plan.recover is not None and plan.recover.covers(row, ratio, seed):
                    models.append(maker.recover(plan.recover, models[-1], seed))
    for row in plan.tasks.values():
        for seed in row.seeds:
            for model in models:
                maker.measure(model, row, seed)
    return sorted(maker.cells, key=lambda cell: STAGES.index(cell.stage))


class _Maker:
    """Makes the cells of one plan. Names depend on the contents of texts; jobs have their paths."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.cells: list[Cell] = []
        self.digest = cache(lambda file: _digest(plan.place(file)))

    def compress(self, row: MethodRow, ratio: float, seed: int) -> _Subject:
        # Keys that plans did not always have are left out at their defaults, so that names stay.
        more: dict[str, Any] = {} if row.linears is None else {"linears": row.linears}
        more |= {} if row.metric is None else {"metric_strength": row.metric_strength}
        common = {
            "method": {"name": method_name(row.method), "fields": method_settings(row.method)},
            "counts": row.counts,
            "ratio": ratio,
            "seed": seed,
            **more,
        }
        text, weights = self.plan.text_of(row), {"weights": row.weights}
        identity = {
            "row": row.name,
            "model": self.plan.model,
            "text": self.contents(text),
            **common,
            **(weights if row.weights is not None else {}),
            **{key: self.contents([file]) for key, file in row.files.items()},
        }
        job = {
            "variant": row.name,
            "recovered": None,
            "text": self.paths(text),
            **common,
            **weights,
            **{key: self.paths([file])[0] for key, file in row.files.items()},
        }
        slug = f"{_slug(row.name)}-ratio{ratio:g}-fit{seed}"
        cell = self.add("press", f"{slug}-press", None, identity, job)
        return _Subject(cell.name, slug, row.name, {"stage": "press", **identity})

    def recover(self, part: RecoverPlan, model: _Subject, seed: int) -> _Subject:
        text, settings = self.plan.text_of(part), part.settings.told()
        common = {"settings": settings, "seed": seed}
        identity = {"of": model.identity, "text": self.contents(text), **common}
        recovered = {**settings, "seed": seed}
        job = {"variant": model.variant, "recovered": recovered, "text": self.paths(text), **common}
        slug = f"{model.slug}-recovered"
        cell = self.add("recover", slug, model.cell, identity, job)
        return _Subject(cell.name, slug, model.variant, {"stage": "recover", **identity}, recovered)

    def measure(self, model: _Subject, row: TaskRow, seed: int) -> None:
        fields = asdict(row.task)  # pyright: ignore[reportArgumentType]
        text, data = self.plan.text if row.task.reads_text else [], self.plan.data
        identity = {
            "of": model.identity,
            "task": row.name,
            "fields": fields,
            "seed": seed,
            "data": data,
            "text": self.contents(text),
        }
        job = {
            "variant": model.variant,
            "task": {"name": row.name, "fields": fields},
            "data": None if data is None else str(self.plan.place(data)),
            "text": self.paths(text),
            "seed": seed,
            "recovered": model.recovered,
        }
        slug = f"{model.slug}-{_slug(row.name)}{f'-seed{seed}' if row.task.seeded else ''}"
        self.add("measure", slug, model.cell, identity, job)

    def add(self, stage: str, slug: str, needs: str | None, identity: dict[str, Any], job: dict[str, Any]) -> Cell:
        text = json.dumps({"stage": stage, **identity}, sort_keys=True)
        name = f"{slug}-{hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()}"
        common = {
            "name": name,
            "stage": stage,
            "needs": needs,
            "output": str(self.plan.place(self.plan.output)),
            "model": self.plan.source,
            "device": self.plan.device,
        }
        self.cells.append(Cell(name, stage, needs, {**common, **job}))
        return self.cells[-1]

    def paths(self, files: Sequence[str]) -> list[str]:
        return [str(self.plan.place(file)) for file in files]

    def contents(self, files: Sequence[str]) -> list[list[str]]:
        """Name and digest of each file."""
        return [[Path(file).name, self.digest(file)] for file in files]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:MAX_SLUG] or "row"


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"can't read {file}: {error.strerror or error}") from None
