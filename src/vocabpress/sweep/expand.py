"""A plan into cells: what each does, what it needs, and a name that changes with everything its result depends on."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vocabpress.methods import method_name, method_settings
from vocabpress.sweep.plan import MethodRow, Plan, RecoverPlan, TaskRow

STAGES = ("press", "recover", "measure")
DIGEST_BYTES = 5
MAX_SLUG = 40


@dataclass(frozen=True)
class Cell:
    """One process of a sweep.

    Attributes:
        name: Of its files: readable, then a hash of all that its result depends on.
        stage: One of `STAGES`.
        needs: Name of the cell whose model it reads; None for the original.
        job: What `vocabpress.sweep.cell` is told, as JSON.
    """

    name: str
    stage: str
    needs: str | None
    job: dict[str, Any]


@dataclass(frozen=True)
class Folders:
    """Where a sweep keeps what; each cell's files carry its name."""

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
        """What the cell's process is told."""
        return self.output / "cells" / f"{cell}.json"

    def work(self, cell: str) -> Path:
        """What an interrupted cell goes on from."""
        return self.output / "work" / cell


@dataclass(frozen=True)
class _Pressed:
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
    identity: Any
    recovered: dict[str, Any] | None = None


def expand(plan: Plan) -> list[Cell]:
    """All cells of a plan, those that others need first.

    Raises:
        ValueError: If a text or counts file can't be read.
    """
    maker = _Maker(plan)
    cells: list[Cell] = []
    models: list[_Pressed] = []
    if plan.include_original:
        models.append(_Pressed(None, "original", "original", {"model": plan.model}))
    for row in plan.methods:
        for ratio in row.ratios or plan.ratios:
            for seed in plan.seeds:
                cell, pressed = maker.press(row, ratio, seed)
                cells.append(cell)
                models.append(pressed)
                if plan.recover is not None and plan.recover.covers(row, ratio, seed):
                    cell, recovered = maker.recover(plan.recover, pressed, seed)
                    cells.append(cell)
                    models.append(recovered)
    cells += [maker.measure(model, task, seed) for task in plan.tasks for seed in task.seeds for model in models]
    return sorted(cells, key=lambda cell: STAGES.index(cell.stage))


class _Maker:
    """Makes the cells of one plan; each file is read once for its digest."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.digests: dict[str, str] = {}

    def press(self, row: MethodRow, ratio: float, seed: int) -> tuple[Cell, _Pressed]:
        method = {"name": method_name(row.method), "fields": method_settings(row.method)}
        more = {} if row.linears is None else {"linears": row.linears.to_dict()}
        more |= {} if row.metric is None else {"metric_strength": row.metric_strength}
        identity = {
            "stage": "press",
            "row": row.name,
            "model": self.plan.model,
            "method": method,
            "text": self.contents(row.text),
            "counts": row.counts,
            "ratio": ratio,
            "seed": seed,
            # Cells of plans that were run before there were these keys keep their names.
            **({} if row.weights is None else {"weights": row.weights}),
            **more,
            **{key: self.contents([file]) for key, file in row.files.items()},
        }
        slug = f"{_slug(row.name)}-ratio{ratio:g}-fit{seed}"
        job = {
            "variant": row.name,
            "method": method,
            "recovered": None,
            "text": self.paths(row.text),
            "counts": row.counts,
            "weights": row.weights,
            **more,
            "ratio": ratio,
            "seed": seed,
            **{key: str(self.plan.place(file)) for key, file in row.files.items()},
        }
        cell = self.cell("press", f"{slug}-press", None, identity, job)
        return cell, _Pressed(cell.name, slug, row.name, identity)

    def recover(self, plan: RecoverPlan, pressed: _Pressed, seed: int) -> tuple[Cell, _Pressed]:
        settings = plan.settings.told()
        identity = {
            "stage": "recover",
            "of": pressed.identity,
            "settings": settings,
            "text": self.contents(plan.text),
            "seed": seed,
        }
        slug, said = f"{pressed.slug}-recovered", {**settings, "seed": seed}
        job = {
            "variant": pressed.variant,
            "settings": settings,
            "recovered": said,
            "text": self.paths(plan.text),
            "seed": seed,
        }
        cell = self.cell("recover", slug, pressed.cell, identity, job)
        return cell, _Pressed(cell.name, slug, pressed.variant, identity, said)

    def measure(self, model: _Pressed, row: TaskRow, seed: int) -> Cell:
        fields = asdict(row.task)  # pyright: ignore[reportArgumentType]
        text = self.plan.text if row.task.reads_text else ()
        identity = {
            "stage": "measure",
            "of": model.identity,
            "task": row.name,
            "fields": fields,
            "seed": seed,
            "data": self.plan.data,
            "text": self.contents(text),
        }
        job = {
            "variant": model.variant,
            "task": {"name": row.name, "fields": fields},
            "data": None if self.plan.data is None else str(self.plan.place(self.plan.data)),
            "text": self.paths(text),
            "seed": seed,
            "recovered": model.recovered,
        }
        slug = f"{model.slug}-{_slug(row.name)}{f'-seed{seed}' if row.task.seeded else ''}"
        return self.cell("measure", slug, model.cell, identity, job)

    def cell(self, stage: str, slug: str, needs: str | None, identity: Any, job: dict[str, Any]) -> Cell:
        text = json.dumps(identity, sort_keys=True)
        name = f"{slug}-{hashlib.blake2b(text.encode(), digest_size=DIGEST_BYTES).hexdigest()}"
        common = {
            "name": name,
            "stage": stage,
            "needs": needs,
            "output": str(self.plan.place(self.plan.output)),
            "model": self.plan.source,
            "device": self.plan.device,
        }
        return Cell(name, stage, needs, {**common, **job})

    def paths(self, files: Iterable[str]) -> list[str]:
        return [str(self.plan.place(file)) for file in files]

    def contents(self, files: Sequence[str]) -> list[list[str]]:
        """Name and digest of each file."""
        for file in files:
            if file not in self.digests:
                self.digests[file] = _digest(self.plan.place(file))
        return [[Path(file).name, self.digests[file]] for file in files]


def _slug(name: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", name.lower()).strip("-.")[:MAX_SLUG] or "row"


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise ValueError(f"can't read {file}: {error.strerror or error}") from None
