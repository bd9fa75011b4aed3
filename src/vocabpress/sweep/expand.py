"""A plan into cells: the work of each, its input, and a name that changes with everything its result depends on."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from vocabpress.methods import method_name, method_settings
from vocabpress.sweep.plan import SweepPlan
from vocabpress.sweep.rows import MethodRow, RecoverPlan, TaskRow

STAGES = ("press", "recover", "measure")
DIGEST_BYTES = 5
MAX_SLUG = 40


@dataclass(frozen=True)
class Cell:
    """One process of a sweep."""

    name: str  # stem of its files: readable, then a hash of all that its result depends on
    stage: str  # one of `STAGES`
    needs: str | None  # name of the cell whose model it reads; None for the original
    job: dict[str, Any]  # the input of `vocabpress.sweep.cell`, as JSON


@dataclass(frozen=True)
class Folders:
    """Where a sweep writes; each cell's files have its name."""

    output: Path

    def result(self, cell: str) -> Path:
        """The JSON file that marks a cell as done."""
        return self.output / "results" / f"{cell}.json"

    def model(self, cell: str) -> Path:
        """The checkpoint that a compressing or recovering cell makes."""
        return self.output / "models" / cell

    def log(self, cell: str) -> Path:
        """The output of the cell's process."""
        return self.output / "logs" / f"{cell}.log"

    def spec(self, cell: str) -> Path:
        """The input of the cell's process."""
        return self.output / "cells" / f"{cell}.json"

    def work(self, cell: str) -> Path:
        """The files from which an interrupted cell resumes."""
        return self.output / "work" / cell


@dataclass(frozen=True)
class _Subject:
    """A model that measure cells read: the cell that makes it, if any, and what they inherit from that cell."""

    cell: str | None
    slug: str
    variant: str
    identity: dict[str, Any]
    recovered: dict[str, Any] | None = None


def expand(plan: SweepPlan) -> list[Cell]:
    """All cells of a plan, those that others need first."""
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
    """Makes the cells of one plan.

    A name depends on an identity: the content of the job, with the contents of files instead of their paths. Keys that
    plans did not always have are left out where they are at their defaults, so that names stay.
    """

    def __init__(self, plan: SweepPlan) -> None:
        self.plan = plan
        self.cells: list[Cell] = []
        self.digest = cache(lambda file: _digest(plan.place(file)))

    def compress(self, row: MethodRow, ratio: float, seed: int) -> _Subject:
        common: dict[str, Any] = {
            "method": {"name": method_name(row.method), "fields": method_settings(row.method)},
            "counts": row.counts,
            "ratio": ratio,
            "seed": seed,
            **({} if row.linears is None else {"linears": row.linears}),
            **({} if row.metric is None else {"metric_strength": row.metric_strength}),
        }
        weights = {"weights": row.weights}
        identity = {**common, "row": row.name, "model": self.plan.model, **(weights if row.weights is not None else {})}
        identity |= {key: self.contents([file]) for key, file in row.files.items()}
        job = {**common, **weights, **{key: str(self.plan.place(file)) for key, file in row.files.items()}}
        model = _Subject(None, f"{_slug(row.name)}-ratio{ratio:g}-fit{seed}", row.name, {})
        return self.add("press", model, "-press", self.plan.text_of(row), identity, job)

    def recover(self, part: RecoverPlan, model: _Subject, seed: int) -> _Subject:
        settings = part.settings.to_dict()
        common = {"settings": settings, "seed": seed}
        after = replace(model, slug=f"{model.slug}-recovered", recovered={**settings, "seed": seed})
        return self.add("recover", after, "", self.plan.text_of(part), {"of": model.identity, **common}, common)

    def measure(self, model: _Subject, row: TaskRow, seed: int) -> None:
        fields, data = asdict(row.task), self.plan.data  # pyright: ignore[reportArgumentType]
        identity = {"of": model.identity, "task": row.name, "fields": fields, "seed": seed, "data": data}
        place = None if data is None else str(self.plan.place(data))
        job = {"task": {"name": row.name, "fields": fields}, "seed": seed, "data": place}
        suffix = f"-{_slug(row.name)}{f'-seed{seed}' if row.task.seeded else ''}"
        self.add("measure", model, suffix, self.plan.text if row.task.reads_text else [], identity, job)

    def add(
        self,
        stage: str,
        model: _Subject,
        suffix: str,
        text: Sequence[str],
        identity: dict[str, Any],
        job: dict[str, Any],
    ) -> _Subject:
        """Add a cell; returns the model that it makes, if it makes one."""
        identity = {"stage": stage, "text": self.contents(text), **identity}
        digest = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=DIGEST_BYTES).hexdigest()
        name = f"{model.slug}{suffix}-{digest}"
        common = {
            "name": name,
            "stage": stage,
            "needs": model.cell,
            "output": str(self.plan.place(self.plan.output)),
            "model": self.plan.source,
            "device": self.plan.device,
            "variant": model.variant,
            "recovered": model.recovered,
            "text": [str(self.plan.place(file)) for file in text],
        }
        self.cells.append(Cell(name, stage, model.cell, {**common, **job}))
        return replace(model, cell=name, identity=identity)

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
