"""Recover a compressed model: two folders and some text, or a task's rows, in; a third folder out."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vocabpress.hf.card import add_recovered, write_card
from vocabpress.hf.compress import check_device
from vocabpress.hf.folders import find_folder, weight_bytes, weight_files
from vocabpress.hf.page import original_text, read_page
from vocabpress.hf.report import Recovered, load_report
from vocabpress.hf.writing import check_output, work_folder, written_at_once
from vocabpress.reconstruction import reconstruction
from vocabpress.recover.lesson import Lesson, Source, read_lesson
from vocabpress.recover.loop import Progress, Run, held_out_terms, make_accelerator, share, weighted
from vocabpress.recover.pair import Pair, can_be_stored, open_pair, set_best, table_of, write_student
from vocabpress.recover.settings import Recovery, RecoveryReport
from vocabpress.texts import sources


def recover(
    model: str | Path,
    output: str | Path,
    *,
    teacher: str | Path,
    text: Sequence[str | Path] = (),
    task: str | None = None,
    data: str | Path | None = None,
    settings: Recovery | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: bool = False,
) -> RecoveryReport:
    """Train a compressed model against its original on text or on a task's rows; its tables stay as many bytes.

    With a task, the teacher is a checkpoint that was fine-tuned for it (``vocabpress evaluate --keep``), and the
    student gets its prediction layer: the second stage of KroneckerBERT, whose first is text.

    A run that was stopped goes on from its last checkpoint, in the folder ``OUTPUT.recover`` beside the output, and
    ends where an uninterrupted one would. Started by ``accelerate launch`` it runs on several devices.

    Args:
        model: Folder of the compressed model.
        output: A folder that does not exist yet, or is empty. It appears when all is done, or not at all.
        teacher: The original, a hub id or a folder.
        text: UTF-8 text files, a sequence a line.
        task: Instead of text: a task of GLUE, on whose training rows and labels the student is trained.
        data: Folder of the data sets; None takes the hub's.
        settings: How long and how fast; None takes the defaults.
        seed: Of what is held out and of the order of the text.
        device: ``"cpu"`` keeps accelerate from a GPU; None takes what accelerate finds.
        progress: Whether to draw progress bars on stderr.

    Returns:
        What was done. The held-out loss after is never above the one before: were it so, the input is kept.

    Raises:
        ValueError: With one line that says what was wrong and what to try; the output was not written then.
    """
    settings = settings or Recovery()
    settings.check_terms(task is not None or settings.language_model)
    target = check_output(output)
    source = Source(sources(text), task, None if data is None else Path(data))
    folder, original = find_folder(model), find_folder(teacher)
    check_device(device)
    pair = open_pair(folder, original, settings, source)
    lesson = read_lesson(source, pair.teacher, pair.tokenizer, settings, seed, progress)
    accelerator = make_accelerator(device)
    work = _work_folder(target, _identity(settings, seed, pair, source, lesson, accelerator.num_processes))
    pair.to(accelerator.device)
    before = held_out_terms(pair.student, pair.teacher, lesson.sequences, settings, accelerator.device)
    judged = lesson.judge(pair.student)
    pair.make_trainable()
    show = progress and accelerator.is_main_process
    run = Run(pair.student, pair.teacher, lesson.sequences, settings, accelerator, work, seed, show)
    done = run.train(weighted(before, settings))
    report = None
    if accelerator.is_main_process:
        report = _write(pair, target, lesson, source, seed, _Start(before, judged), done)
        shutil.rmtree(work, ignore_errors=True)
    return share(report)


@dataclass(frozen=True)
class _Start:
    terms: dict[str, float]
    metrics: dict[str, float]


def _write(
    pair: Pair, target: Path, lesson: Lesson, source: Source, seed: int, start: _Start, done: Progress
) -> RecoveryReport:
    """Write the best student, judge it as it is read back, and keep the input where that was no worse."""
    settings, sequences = pair.settings, lesson.sequences
    trained = sum(p.numel() for p in pair.student.parameters() if p.requires_grad)
    set_best(pair, done.best)
    first = weighted(start.terms, settings)
    with written_at_once(target) as temporary:
        provenance = {**settings.told(), "seed": seed, "steps_taken": done.step, "held_out_before": first}
        provenance |= {} if source.task is None else {"task": source.task, "teacher": pair.original.name}
        fresh = write_student(pair, temporary, provenance) if done.best and can_be_stored(pair.student) else None
        after = fresh and held_out_terms(fresh, pair.teacher, sequences, settings, pair.device)
        kept = after is None or not weighted(after, settings) < first
        if after is None or kept:
            shutil.rmtree(temporary)
            _write_input(pair, temporary, source)
            after = start.terms
        report = RecoveryReport(
            output=str(target),
            task=source.task,
            mode=settings.mode,
            trained=trained,
            steps=done.step,
            stopped_early=done.step < settings.steps,
            kept_input=kept,
            held_out_before=first,
            held_out_after=weighted(after, settings),
            terms_before=start.terms,
            terms_after=after,
            training_sequences=len(sequences.training),
            held_out_sequences=len(sequences.held_out),
            table_bytes=pair.table.total_bits() // 8,
            metrics_before=start.metrics,
            metrics_after=start.metrics if fresh is None or kept else lesson.judge(fresh),
            seconds=done.seconds,
        )
        if not kept:
            _describe(pair, fresh, temporary, report)
    return report


def _write_input(pair: Pair, target: Path, source: Source) -> None:
    """Write what came in: the folder itself; with a task, the student with the teacher's prediction layer."""
    if source.task is None:
        shutil.copytree(pair.folder, target)
    else:
        pair.start_again()
        write_student(pair, target, None)
        if (pair.folder / "README.md").is_file():
            shutil.copyfile(pair.folder / "README.md", target / "README.md")


def _describe(pair: Pair, fresh: Any, folder: Path, report: RecoveryReport) -> None:
    """Say on the model card what was trained, and how near the rows are now."""
    figures = {"weighted": (report.held_out_before, report.held_out_after)}
    figures |= {name: (report.terms_before[name], value) for name, value in report.terms_after.items()}
    figures |= {f"{report.task} dev, {n}": (report.metrics_before[n], v) for n, v in report.metrics_after.items()}
    counts = report.training_sequences, report.held_out_sequences
    done = Recovered(report.task, report.mode, report.steps, *counts, figures)
    compressed, page = load_report(pair.folder), read_page(pair.folder)
    if compressed is None:  # of an earlier version
        (folder / "README.md").write_text(add_recovered(pair.folder, done), encoding="utf-8")
        return
    errors = reconstruction(pair.teacher_table, table_of(fresh))
    now = replace(
        compressed,
        output=report.output,
        architecture=type(fresh).__name__,
        relative_error=errors.relative_error,
        mean_cosine=errors.mean_cosine,
        weighted_relative_error=None,  # by counts that are not at hand
        weighted_mean_cosine=None,
        model_bytes_after=weight_bytes(folder),
        recovered=[*compressed.recovered, done],
    )
    write_card(now, folder, page, original_text(page, own=True))


def _identity(settings: Recovery, seed: int, pair: Pair, source: Source, lesson: Lesson, processes: int) -> dict:
    """What a checkpoint belongs to."""
    files = [*weight_files(pair.folder), *weight_files(pair.original), *(Path(file) for file in source.text)]
    identity = {"settings": settings.told(), "seed": seed, "processes": processes, "files": [_digest(f) for f in files]}
    rows = {} if source.task is None else {"task": source.task, "rows": lesson.sequences.digest()}
    return identity | rows


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _work_folder(target: Path, identity: dict) -> Path:
    """The folder of the checkpoints of this very run.

    Raises:
        ValueError: If it holds those of another, or can't be made.
    """
    work = work_folder(target, "recover")
    note = work / "run.json"
    try:
        work.mkdir(parents=True, exist_ok=True)
        if note.exists() and json.loads(note.read_text(encoding="utf-8")) != identity:
            raise ValueError(
                f"{work} holds an interrupted run of other settings, text or models; remove it to start afresh"
            )
        fresh = note.with_suffix(".new")
        fresh.write_text(json.dumps(identity), encoding="utf-8")
        fresh.replace(note)  # whole or not at all
    except OSError as error:
        raise ValueError(f"can't write {work}: {error.strerror or error}; give another output") from None
    return work
