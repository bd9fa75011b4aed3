"""What a compressed model costs, measured: one file per task."""

from dataclasses import fields, replace
from typing import Any

from vocabpress.evaluate.task import Measurement, Subject, Task
from vocabpress.settings import read_settings

TASKS: dict[str, Task] = {}


def make_task(name: str, **settings: Any) -> Task:
    """A task by name, for command lines and plan files.

    Args:
        name: A key of TASKS.
        settings: Values of its fields; text is read as the field's default is typed.

    Raises:
        ValueError: If the name, a field or a value is none of the task's.
    """
    if name not in TASKS:
        raise ValueError(f"unknown task {name!r}; choose from {', '.join(TASKS)}")
    task = TASKS[name]
    known = {field.name: getattr(task, field.name) for field in fields(task)}  # pyright: ignore[reportArgumentType]
    return replace(task, **read_settings(f"task {name}", known, settings))  # pyright: ignore[reportArgumentType]


__all__ = ["TASKS", "Measurement", "Subject", "Task", "make_task"]
