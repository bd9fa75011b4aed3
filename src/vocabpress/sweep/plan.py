"""A plan file: which methods, ratios, tasks and seeds, and where. Read, and checked to the end before anything runs."""

import tomllib
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, ValidationError, model_validator

from vocabpress.calibrate.calibration import TFIDF, VOCABULARY_ORDER
from vocabpress.settings import one_line
from vocabpress.sweep.rows import MethodRow, PlanSection, Ratios, RecoverPlan, Seeds, TaskRow


def _named(tables: Any) -> Any:
    """Give each table its name, as the field ``name``."""
    if not isinstance(tables, dict):
        return tables
    for name, table in tables.items():
        if not isinstance(table, dict) or "name" in table:
            raise ValueError(f"{name} must be a table, without a key 'name', got {table!r}")
    return {name: {"name": name, **table} for name, table in tables.items()}


def _slurm(parameters: dict[str, Any]) -> dict[str, Any]:
    """Parameters that submitit knows; unchecked where submitit is not installed, which running with them needs."""
    try:
        from submitit import AutoExecutor
    except ImportError:
        return parameters
    try:
        AutoExecutor(Path("unused"), cluster="debug").update_parameters(**parameters)
    except (NameError, ValueError, AssertionError) as error:
        raise ValueError(str(error).splitlines()[0]) from None
    return parameters


class SweepPlan(PlanSection):
    """A sweep. Paths are as in the file; `place` resolves them."""

    model: str  # hub id, or a folder
    output: str  # folder of everything that is written
    methods: Annotated[dict[str, MethodRow], BeforeValidator(_named)] = Field(default={})
    ratios: Ratios = Field(default=[])  # float32 bytes of the table over stored bytes
    seeds: Seeds = Field(default=[0])  # for the fits
    tasks: Annotated[dict[str, TaskRow], BeforeValidator(_named)] = Field(default={})
    data: str | None = None  # folder of the data sets
    text: list[str] = Field(default=[])  # UTF-8 files, for the tasks that read text
    fit_text: list[str] | None = None  # files in which ``weighted_by_text`` counts; None takes ``text``
    device: str = "cpu"  # of a cell
    workers: int = Field(default=1, ge=1)  # local processes at a time
    threads: int | None = Field(default=None, ge=1)  # of a cell; None divides the cores among the workers
    include_original: bool = True  # whether the uncompressed model is measured, too
    recover: RecoverPlan | None = None
    slurm: Annotated[dict[str, Any], AfterValidator(_slurm)] = Field(default={})  # for submitit's AutoExecutor
    _folder: Path = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        self._folder = context

    def place(self, path: str) -> Path:
        """The path of a file of the plan; relative ones start from the plan file's folder."""
        return self._folder / Path(path).expanduser()

    @property
    def source(self) -> str:
        """The model: a folder's full path, or the hub id."""
        place = self.place(self.model)
        return str(place) if place.is_dir() else self.model

    def text_of(self, part: MethodRow | RecoverPlan) -> list[str]:
        """The text in which a row's tokens are counted, or on which a recovery trains."""
        if isinstance(part, RecoverPlan):
            return self.text if part.text is None else part.text
        if not part.weighted_by_text:
            return []
        return self.text if self.fit_text is None else self.fit_text

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.methods and not (self.tasks and self.include_original):
            raise ValueError("there is nothing to do; add [methods.NAME], or [tasks.NAME] for the original")
        if self.methods and not self.ratios:
            raise ValueError("ratios is missing or empty; try ratios = [8, 25]")
        chosen: list[tuple[str, Any, Any]] = [
            (f"methods.{row.name}: ratios", row.ratios, self.ratios) for row in self.methods.values()
        ]
        if self.recover is not None:
            every = {"methods": list(self.methods), "ratios": self.ratios, "seeds": self.seeds}
            chosen += [(f"recover.only.{key}", getattr(self.recover.only, key), every[key]) for key in every]
        for where, values, there in chosen:
            strange = [value for value in values or () if value not in there]
            if strange:
                raise ValueError(f"{where} names {strange[0]!r}, the plan has {there}")
        self._check_places()
        self._check_inputs()
        return self

    def _check_places(self) -> None:
        if self.model.startswith((".", "/", "~")) and not self.place(self.model).is_dir():
            raise ValueError(f"no such model folder: {self.place(self.model)}")
        if self.data is not None and not self.place(self.data).is_dir():
            raise ValueError(f"no such folder of data sets: {self.place(self.data)}")
        if self.place(self.output).is_file():
            raise ValueError(f"the output {self.output} is a file; give a folder")

    def _check_inputs(self) -> None:
        """Check that every text file and every file of counts, weights or a metric exists."""
        readers = {f"methods.{row.name}": row for row in self.methods.values() if row.weighted_by_text}
        readers |= {} if self.recover is None else {"recover": self.recover}
        for where, part in readers.items():
            if not self.text_of(part):
                raise ValueError(f"{where} needs text; name files in text or fit_text")
        for file in [*self.text, *(file for part in readers.values() for file in self.text_of(part))]:
            if not self.place(file).is_file():
                raise ValueError(f"no such text file: {self.place(file)}")
        other = {"counts": VOCABULARY_ORDER, "weights": TFIDF, "metric": "`vocabpress calibrate`, which makes one"}
        for row in self.methods.values():
            for key, file in row.files.items():
                if not self.place(file).is_file():
                    raise ValueError(f"methods.{row.name}: no such {key} file: {file}; try {other[key]}")


def read_plan(path: str | Path) -> SweepPlan:
    """Read and check a plan file, a TOML file with the keys in docs/sweep.md.

    Raises:
        ValueError: If it can't be read, a key is unknown, a value does not fit, or a file that it names does not exist.
    """
    file = Path(path)
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"can't read the plan {file}: {error.strerror or error}") from None
    except ValueError as error:  # also what is not UTF-8
        raise ValueError(f"the plan {file} is not TOML: {error}") from None
    try:
        return SweepPlan.model_validate(table, context=file.absolute().parent)
    except ValidationError as error:
        raise ValueError(f"{file.name}: {one_line(error)}") from None
