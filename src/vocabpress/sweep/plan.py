"""A plan file: which methods, ratios, tasks and seeds, and where. Read, and checked to the end before anything runs."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import TFIDF, VOCABULARY_ORDER
from vocabpress.evaluate import TASKS, Task
from vocabpress.hf.request import LinearShapes
from vocabpress.methods import METHODS, Method, is_method
from vocabpress.recover.settings import Recovery
from vocabpress.sweep.reading import Section, read_method, read_recovery, read_task


@dataclass(frozen=True)
class MethodRow:
    """One row of the sweep's tables.

    Attributes:
        name: As legends show it.
        method: With its fields.
        text: Files to count token weights in; none for no such weights.
        counts: ``"vocabulary-order"`` or a file of saved counts, instead of text.
        weights: Instead of the root of the counts: another power of them, ``"tfidf"`` of the text, or a file of saved
            weights.
        ratios: Of those of the plan; none means all.
        linears: Linear maps that become Kronecker products, if any.
        metric: A calibration file with a metric, if any.
        metric_strength: Its exponent.
    """

    name: str
    method: Method
    text: tuple[str, ...] = ()
    counts: str | None = None
    weights: str | float | None = None
    ratios: tuple[float, ...] = ()
    linears: LinearShapes | None = None
    metric: str | None = None
    metric_strength: float = 1.0

    @property
    def files(self) -> dict[str, str]:
        """``counts``, ``weights`` and ``metric`` where they are files: key -> file."""
        said = {"counts": self.counts, "weights": self.weights, "metric": self.metric}
        return {
            key: file for key, file in said.items() if isinstance(file, str) and file not in (VOCABULARY_ORDER, TFIDF)
        }


@dataclass(frozen=True)
class TaskRow:
    """A task, and the seeds that it is run with."""

    name: str
    task: Task
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class RecoverPlan:
    """Which compressed models are recovered, and how.

    Attributes:
        settings: Of each recovery.
        text: Files to train on.
        methods: Names of rows.
        ratios: Of those of the plan.
        seeds: Of the fits.
    """

    settings: Recovery
    text: tuple[str, ...]
    methods: tuple[str, ...]
    ratios: tuple[float, ...]
    seeds: tuple[int, ...]

    def covers(self, row: MethodRow, ratio: float, seed: int) -> bool:
        """Whether this model is recovered."""
        return row.name in self.methods and ratio in self.ratios and seed in self.seeds


@dataclass(frozen=True)
class Plan:
    """A sweep. Paths are as the file says them; `place` says where they are.

    Attributes:
        folder: Of the plan file.
        model: Hub id, or a folder.
        output: Folder of everything that is written.
        methods: Rows.
        ratios: Of the table, to float32.
        seeds: Of the fits.
        tasks: What is measured.
        data: Folder of the data sets.
        text: UTF-8 files, for the tasks that read text.
        device: Where a cell runs, e.g. ``"cuda"``.
        workers: Local processes at a time.
        threads: Of a cell; None divides the cores among the workers.
        include_original: Whether the uncompressed model is measured, too.
        recover: None leaves recovery out.
        slurm: Parameters of submitit's AutoExecutor.
    """

    folder: Path
    model: str
    output: str
    methods: tuple[MethodRow, ...]
    ratios: tuple[float, ...]
    seeds: tuple[int, ...]
    tasks: tuple[TaskRow, ...]
    data: str | None
    text: tuple[str, ...]
    device: str
    workers: int
    threads: int | None
    include_original: bool
    recover: RecoverPlan | None
    slurm: Mapping[str, Any]

    def place(self, said: str) -> Path:
        """Where a path of the plan is; relative ones start from the plan file's folder."""
        return self.folder / Path(said).expanduser()

    @property
    def source(self) -> str:
        """The model: a folder's full path, or the hub id."""
        place = self.place(self.model)
        return str(place) if place.is_dir() else self.model


def read_plan(path: str | Path) -> Plan:
    """Read and check a plan file.

    Args:
        path: A TOML file; docs/sweep.md lists its keys.

    Raises:
        ValueError: If it can't be read, a key is unknown, a value does not fit, or a file that it names is not there.
    """
    file = Path(path)
    top = Section(file.name, _load(file))
    text, fit_text = top.take("text", list[str], ()), top.take("fit_text", list[str], None)
    seeds = _seeds(top, (0,))
    methods = tuple(
        _method(name, row, text if fit_text is None else fit_text) for name, row in top.sections("methods").items()
    )
    tasks = tuple(_task(name, row) for name, row in top.sections("tasks").items())
    plan = Plan(
        folder=file.absolute().parent,
        model=top.take("model", str),
        output=top.take("output", str),
        methods=methods,
        ratios=_ratios(top, bool(methods)),
        seeds=seeds,
        tasks=tasks,
        data=top.take("data", str, None),
        text=text,
        device=top.take("device", str, "cpu"),
        workers=top.take("workers", int, 1),
        threads=top.take("threads", int, None),
        include_original=top.take("include_original", bool, True),
        recover=None,
        slurm=_slurm(top.section("slurm")),
    )
    recover = top.section("recover")
    top.close()
    if recover is not None:
        plan = Plan(**{**vars(plan), "recover": _recover(recover, plan)})
    _check(plan, file.name)
    return plan


def _load(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"can't read the plan {file}: {error.strerror or error}") from None
    except ValueError as error:  # also what is not UTF-8
        raise ValueError(f"the plan {file} is not TOML: {error}") from None


def _method(name: str, row: Section, text: tuple[str, ...]) -> MethodRow:
    known = row.take("method", str, name)
    if not is_method(known):
        raise ValueError(f"{row.where}: unknown method {known!r}; set method to one of {', '.join(METHODS)}")
    weighted, counts = row.take("weighted_by_text", bool, False), row.take("counts", str, None)
    weights = row.take("weights", str | float, None)
    if weighted and counts is not None:
        raise ValueError(f"{row.where}: token weights come from weighted_by_text or from counts; give one of them")
    if weighted and not text:
        raise ValueError(f"{row.where}: weighted_by_text needs text; name files in text or fit_text of the plan")
    if weights == TFIDF and not weighted:
        raise ValueError(f"{row.where}: weights = {TFIDF!r} needs weighted_by_text = true")
    if isinstance(weights, float) and not weighted and counts is None:
        raise ValueError(
            f"{row.where}: weights = {weights:g} is a power of counts; add weighted_by_text = true or counts"
        )
    ratios, linears = _ratios(row, required=False), _linears(row)
    metric, strength = row.take("metric", str, None), row.take("metric_strength", float, 1.0)
    method = read_method(row.where, known, row.rest())
    return MethodRow(name, method, text if weighted else (), counts, weights, ratios, linears, metric, strength)


def _linears(row: Section) -> LinearShapes | None:
    shapes = row.take("linears", dict, None)
    try:
        return None if shapes is None else LinearShapes.read(shapes)
    except ValueError as error:
        raise ValueError(f"{row.where}: {error}") from None


def _task(name: str, row: Section) -> TaskRow:
    if name not in TASKS:
        raise ValueError(f"{row.where}: unknown task {name!r}; choose from {', '.join(TASKS)}")
    seeds = _seeds(row, None)
    task = read_task(row.where, name, row.rest())
    if seeds is not None and not task.seeded:
        raise ValueError(f"{row.where}: the result of {name} depends on no seed; leave seeds out")
    return TaskRow(name, task, seeds or (0,))


def _seeds(section: Section, default: Any) -> Any:
    """A list of seeds; a number n stands for 0 to n - 1."""
    said = section.take("seeds", int | list[int], default)
    seeds = tuple(range(said)) if isinstance(said, int) else said
    if seeds is not None and (not seeds or min(seeds) < 0):
        raise ValueError(f"{section.where}: seeds is a number above 0, or a list of numbers from 0, got {said!r}")
    return None if seeds is None else _distinct(section.where, "seeds", seeds)


def _ratios(top: Section, required: bool) -> tuple[float, ...]:
    ratios = top.take("ratios", list[float], ()) if not required else top.take("ratios", list[float])
    for ratio in ratios:
        try:
            Budget.ratio(ratio)
        except ValueError as error:
            raise ValueError(f"{top.where}: ratios: {error}") from None
    if required and not ratios:
        raise ValueError(f"{top.where}: ratios is empty; try ratios = [8, 25]")
    return _distinct(top.where, "ratios", ratios)


def _distinct(where: str, key: str, values: tuple[Any, ...]) -> tuple[Any, ...]:
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise ValueError(f"{where}: {key} has {twice[0]:g} twice; name each once")
    return values


def _slurm(section: Section | None) -> dict[str, Any]:
    """Parameters that submitit knows; unchecked where submitit is not installed, which running with them needs."""
    if section is None:
        return {}
    parameters = section.rest()
    try:
        from submitit import AutoExecutor
    except ImportError:
        return parameters
    try:
        AutoExecutor(Path("unused"), cluster="debug").update_parameters(**parameters)
    except (NameError, ValueError, AssertionError) as error:
        raise ValueError(f"{section.where}: {str(error).splitlines()[0]}") from None
    return parameters


def _recover(section: Section, plan: Plan) -> RecoverPlan:
    text = section.take("text", list[str], plan.text)
    only = section.section("only") or Section(f"{section.where}.only", {})
    if not text:
        raise ValueError(f"{section.where}: recovery needs text; name files in text")
    whole: dict[str, tuple[Sequence[Any], Any]] = {
        "methods": (tuple(row.name for row in plan.methods), list[str]),
        "ratios": (plan.ratios, list[float]),
        "seeds": (plan.seeds, list[int]),
    }
    kept = {key: only.take(key, hint, every) for key, (every, hint) in whole.items()}
    only.close()
    for key, (every, _) in whole.items():
        strange = [value for value in kept[key] if value not in every]
        if strange:
            raise ValueError(f"{section.where}: only.{key} names {strange[0]!r}, the plan has {list(every)}")
    return RecoverPlan(read_recovery(section.where, section.rest()), text, **kept)


def _check(plan: Plan, where: str) -> None:
    """What spans several keys, and what must be there."""
    for row in plan.methods:
        strange = [ratio for ratio in row.ratios if ratio not in plan.ratios]
        if strange:
            raise ValueError(
                f"{where}, [methods.{row.name}]: ratios names {strange[0]:g}, the plan has {list(plan.ratios)}"
            )
    if plan.workers < 1 or (plan.threads is not None and plan.threads < 1):
        raise ValueError(f"{where}: workers and threads are at least 1, got {plan.workers} and {plan.threads}")
    if not plan.methods and not (plan.tasks and plan.include_original):
        raise ValueError(f"{where}: there is nothing to do; add [methods.NAME], or [tasks.NAME] for the original")
    if plan.data is not None and not plan.place(plan.data).is_dir():
        raise ValueError(f"{where}: no such folder of data sets: {plan.place(plan.data)}")
    _check_files(plan, where)
    if plan.model.startswith((".", "/", "~")) and not plan.place(plan.model).is_dir():
        raise ValueError(f"{where}: no such model folder: {plan.place(plan.model)}")
    if plan.place(plan.output).is_file():
        raise ValueError(f"{where}: the output {plan.output} is a file; give a folder")


def _check_files(plan: Plan, where: str) -> None:
    """That there is every text, and every file of counts, weights or a metric."""
    files = [
        *plan.text,
        *(file for row in plan.methods for file in row.text),
        *(plan.recover.text if plan.recover else ()),
    ]
    for file in files:
        if not plan.place(file).is_file():
            raise ValueError(f"{where}: no such text file: {plan.place(file)}")
    for row in plan.methods:
        other = {"counts": VOCABULARY_ORDER, "weights": TFIDF, "metric": "`vocabpress calibrate`, which makes one"}
        for key, file in row.files.items():
            if not plan.place(file).is_file():
                raise ValueError(f"{where}, [methods.{row.name}]: no such {key} file: {file}; try {other[key]}")
