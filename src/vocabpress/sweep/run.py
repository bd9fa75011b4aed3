"""The scheduler: which cells are to run, stage by stage, and their outcome."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from vocabpress.hf.folders import find_folder
from vocabpress.progress import Bar
from vocabpress.sweep.expand import STAGES, Cell, Folders, expand
from vocabpress.sweep.plan import SweepPlan
from vocabpress.sweep.pools import Ended, Process, cores, open_cluster, run_cluster, run_local


@dataclass(frozen=True)
class SweepReport:
    """The outcome of a sweep."""

    done: list[str]  # names of the cells that ran to their end
    reused: list[str]  # names of the cells that an earlier run had done
    failed: list[tuple[str, str]]  # name and reason of cells that failed, and of cells not run because of that
    seconds: float
    results: str  # folder of the JSON files, one a cell


def folders_of(plan: SweepPlan) -> Folders:
    """Where a plan writes."""
    return Folders(plan.place(plan.output))


def cells_to_run(cells: Sequence[Cell], folders: Folders) -> list[Cell]:
    """The cells without a result, and those whose model is needed by one of them and is missing."""
    missing = {cell.name for cell in cells if not folders.result(cell.name).is_file()}
    for cell in reversed(cells):  # those that need come after those that are needed
        if cell.name in missing and cell.needs is not None and not folders.model(cell.needs).is_dir():
            missing.add(cell.needs)
    return [cell for cell in cells if cell.name in missing]


def run_sweep(
    plan: SweepPlan, *, workers: int | None = None, cluster: str | None = None, progress: bool = False
) -> SweepReport:
    """Run the cells of a plan that have no result yet. A cell that fails is reported and stops no other.

    They are processes of this machine, ``workers`` or the plan's number at a time, or jobs of the ``cluster``.

    Raises:
        ValueError: If the model can't be found, the output can't be written, or the cluster takes no jobs.
        KeyboardInterrupt: When stopped; its cells are then stopped, too, and finished results stay.
    """
    start = time.perf_counter()
    folders, cells = folders_of(plan), expand(plan)
    todo = cells_to_run(cells, folders)
    names = {cell.name for cell in todo}
    failed: dict[str, str] = {}
    if todo:
        find_folder(plan.source)  # a hub id is downloaded once, not by each cell
        run, threads = _pool(plan, folders, workers, cluster)
        _write_specs(todo, folders)
        with Bar(total=len(todo), desc="cells", disable=not progress) as bar:

            def ended(cell: str, reason: str | None) -> None:
                if reason is not None:
                    failed[cell] = reason
                bar.update()

            for stage in STAGES:
                ready = []
                for cell in (cell for cell in todo if cell.stage == stage):
                    if cell.needs not in failed:
                        ready.append(Process(cell.name, folders, threads))
                    elif failed[cell.needs].startswith("not run: "):  # names the cell that failed first
                        ended(cell.name, failed[cell.needs])
                    else:
                        ended(cell.name, f"not run: {cell.needs} failed")
                if ready:
                    run(ready, ended)
    return SweepReport(
        done=[cell.name for cell in todo if cell.name not in failed],
        reused=[cell.name for cell in cells if cell.name not in names],
        failed=[(cell.name, failed[cell.name]) for cell in todo if cell.name in failed],
        seconds=time.perf_counter() - start,
        results=str(folders.output / "results"),
    )


def _pool(
    plan: SweepPlan, folders: Folders, workers: int | None, cluster: str | None
) -> tuple[Callable[[Sequence[Process], Ended], None], int | None]:
    """What runs processes, and the threads of each."""
    if cluster is not None:
        executor = open_cluster(folders.output / "slurm", plan.slurm, cluster)
        return partial(run_cluster, executor=executor), plan.threads or plan.slurm.get("cpus_per_task")
    workers = plan.workers if workers is None else workers
    if workers < 1:
        raise ValueError(f"workers is at least 1, got {workers}")
    return partial(run_local, workers=workers), plan.threads or max(1, cores() // workers)


def _write_specs(cells: Sequence[Cell], folders: Folders) -> None:
    try:
        for cell in cells:
            for path in (folders.spec(cell.name), folders.log(cell.name)):
                path.parent.mkdir(parents=True, exist_ok=True)
            folders.spec(cell.name).write_text(json.dumps(cell.job, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise ValueError(f"can't write to {folders.output}: {error.strerror or error}; give another output") from None
