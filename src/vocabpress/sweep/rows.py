"""The tables of a plan file: their keys, and what each may be."""

from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, InstanceOf, model_validator

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import TFIDF, VOCABULARY_ORDER
from vocabpress.evaluate import Task, task_from
from vocabpress.hf.request import LinearShapes
from vocabpress.methods import METHODS, Method, is_method, method_from
from vocabpress.recover.settings import Recovery
from vocabpress.settings import read_settings


def _distinct(values: list[Any]) -> list[Any]:
    twice = [value for index, value in enumerate(values) if value in values[:index]]
    if twice:
        raise ValueError(f"{twice[0]:g} occurs twice; name each once")
    return values


def _ratio(value: float) -> float:
    Budget.ratio(value)
    return value


def _linears(shapes: dict[str, Any]) -> dict[str, Any]:
    return LinearShapes.read(shapes).to_dict()


def _weights(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float | None):
        raise ValueError(f"a power of the counts, {TFIDF!r} or a file of weights, got {value!r}")
    return float(value) if isinstance(value, int) else value


Ratios = Annotated[list[Annotated[float, AfterValidator(_ratio)]], AfterValidator(_distinct)]
Seeds = Annotated[
    list[Annotated[int, Field(ge=0)]],
    Field(min_length=1),
    BeforeValidator(lambda value: list(range(value)) if type(value) is int else value),
    AfterValidator(_distinct),
]


class PlanSection(BaseModel):
    """A table of the file: values have the types of its fields, and an unknown key is an error."""

    model_config = ConfigDict(strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, table: Any) -> Any:
        strange = [key for key in table if key not in cls.model_fields] if isinstance(table, dict) else []
        if strange:
            raise ValueError(f"unknown key {strange[0]!r}; known are {', '.join(cls.model_fields)}")
        return table

    @classmethod
    def _with_rest(cls, table: Any, field: str, read: Callable[[dict[str, Any]], Any]) -> Any:
        """The section's own keys, and as ``field`` the result of ``read`` for all other keys."""
        if not isinstance(table, dict):
            return table
        own = {key: value for key, value in table.items() if key in cls.model_fields and key != field}
        return {**own, field: read({key: value for key, value in table.items() if key not in own})}


class MethodRow(PlanSection):
    """A row of the sweep's tables. Keys that are not listed here are fields of the method."""

    name: str  # as in legends
    method: InstanceOf[Method]  # in the file it is a name, by default that of the row
    weighted_by_text: bool = False  # whether tokens are counted in the plan's text
    counts: str | None = None  # ``"vocabulary-order"`` or a file of saved counts, instead of text
    # Instead of the root of the counts: another power of them, ``"tfidf"`` of the text, or a file of saved weights.
    weights: Annotated[Any, AfterValidator(_weights)] = None
    ratios: Ratios = []  # a choice of the plan's; none means all
    # Linear maps that become Kronecker products, as `LinearShapes.read` takes them.
    linears: Annotated[dict[str, Any], AfterValidator(_linears)] | None = None
    metric: str | None = None  # a calibration file with a metric, if any
    metric_strength: float = 1.0  # exponent of the metric

    @property
    def files(self) -> dict[str, str]:
        """``counts``, ``weights`` and ``metric`` where they are files: key -> file."""
        values = {"counts": self.counts, "weights": self.weights, "metric": self.metric}
        words = (VOCABULARY_ORDER, TFIDF)
        return {key: file for key, file in values.items() if isinstance(file, str) and file not in words}

    @model_validator(mode="before")
    @classmethod
    def _read_method(cls, table: Any) -> Any:
        def read(rest: dict[str, Any]) -> Method:
            name = rest.pop("method", table["name"])
            if not is_method(name):
                raise ValueError(f"unknown method {name!r}; set method to one of {', '.join(METHODS)}")
            return method_from(name, rest, strict=True)

        return cls._with_rest(table, "method", read)

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.weighted_by_text and self.counts is not None:
            raise ValueError("token weights come from weighted_by_text or from counts; give one of them")
        if self.weights == TFIDF and not self.weighted_by_text:
            raise ValueError(f"weights = {TFIDF!r} needs weighted_by_text = true")
        if isinstance(self.weights, float) and not self.weighted_by_text and self.counts is None:
            raise ValueError(f"weights = {self.weights:g} is a power of counts; add weighted_by_text = true or counts")
        return self


class TaskRow(PlanSection):
    """A task and the seeds that it is run with. Keys that are not listed here are fields of the task."""

    name: str
    task: InstanceOf[Task]
    seeds: Seeds = [0]

    @model_validator(mode="before")
    @classmethod
    def _read_task(cls, table: Any) -> Any:
        return cls._with_rest(table, "task", lambda rest: task_from(table["name"], rest, strict=True))

    @model_validator(mode="after")
    def _check_seeds(self) -> Self:
        if "seeds" in self.model_fields_set and not self.task.seeded:
            raise ValueError(f"the result of {self.name} depends on no seed; leave seeds out")
        return self


class Only(PlanSection):
    """The compressed models that are recovered: names of rows, ratios and seeds of the plan; None means all."""

    methods: list[str] | None = None
    ratios: list[float] | None = None
    seeds: list[int] | None = None


class RecoverPlan(PlanSection):
    """Which compressed models are recovered, and how. Keys that are not listed here are fields of `Recovery`."""

    settings: InstanceOf[Recovery]
    text: list[str] | None = None  # files to train on; None takes the plan's
    only: Only = Only()

    @model_validator(mode="before")
    @classmethod
    def _read_settings(cls, table: Any) -> Any:
        def read(rest: dict[str, Any]) -> Recovery:
            return Recovery(**read_settings("recover", Recovery, rest, strict=True))

        return cls._with_rest(table, "settings", read)

    def covers(self, row: MethodRow, ratio: float, seed: int) -> bool:
        chosen = ((self.only.methods, row.name), (self.only.ratios, ratio), (self.only.seeds, seed))
        return all(values is None or value in values for values, value in chosen)
