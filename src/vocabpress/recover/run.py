"""Recovery of a compressed model: train it against its original, and write a new checkpoint."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from vocabpress.hf.card import add_recovered, write_card
from vocabpress.hf.compress import check_device
from vocabpress.hf.folders import find_folder, weight_bytes, weight_files
from vocabpress.hf.page import original_text, read_page
from vocabpress.hf.report import Recovered, load_report
from vocabpress.hf.sizes import Folder
from vocabpress.hf.writing import check_output, work_folder, written_at_once
from vocabpress.reconstruction import reconstruction
from vocabpress.recover.lesson import Lesson, Source, read_lesson
from vocabpress.recover.loop import Progress, Training, make_accelerator
from vocabpress.recover.objective import batch_terms, weighted
from vocabpress.recover.pair import Pair, open_pair, rows_of, table_of
from vocabpress.recover.settings import Recovery, RecoveryReport
from vocabpress.recover.text import Batch, Sequences
from vocabpress.results import write_whole
from vocabpress.texts import sources

if TYPE_CHECKING:
    from accelerate import Accelerator

SMALLEST_RMS = 1e-3  # lower limit for the learning rate of a tensor: biases start at zero
WARM_UP = 0.05
TIMED_WARM_UP = 20  # steps at most, where nobody knows how many there will be


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

    An interrupted run resumes from its last checkpoint, in the folder ``OUTPUT.recover`` beside the output, with the
    same result as an uninterrupted one. Started by ``accelerate launch`` it runs on several devices.

    Args:
        model: Folder of the compressed model.
        output: A folder that does not exist yet, or is empty. It appears when all is done, or not at all.
        teacher: The original, a hub id or a folder.
        text: UTF-8 text files, a sequence a line.
        task: Instead of text: a task of GLUE, on whose training rows and labels the student is trained.
        data: Folder of the data sets; None takes the hub's.
        settings: Length and hyper-parameters of the training; None takes the defaults.
        seed: Decides which sequences are held out, and the order of the others.
        device: ``"cpu"`` uses no GPU; None lets accelerate choose.
        progress: Whether to draw progress bars on stderr.

    Returns:
        The report. The held-out loss never rises: if training does not lower it, the input is written.

    Raises:
        ValueError: In one line what is wrong and what to try; nothing was written then.
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
    work = _work_folder(target, _identity(seed, pair, source, lesson, accelerator.num_processes))
    pair.to(accelerator.device)
    before, judged = pair.judge(lesson.sequences), lesson.judge(pair.student, settings.precision)
    pair.make_trainable()
    title = "recovering" if progress and accelerator.is_main_process else ""
    training = _training(pair, lesson.sequences, accelerator, work, seed, title)
    done = training.train(weighted(before, settings))
    report = None
    if accelerator.is_main_process:
        report = _write(pair, target, lesson, source, seed, done, before, judged)
        shutil.rmtree(work, ignore_errors=True)
    from accelerate.utils import broadcast_object_list

    (shared,) = broadcast_object_list([report])
    assert shared is not None  # the main process made it
    return shared


def _training(
    pair: Pair, sequences: Sequences, accelerator: "Accelerator", work: Path, seed: int, title: str
) -> Training:
    """Adam with a learning rate for each tensor, warmed up, then linear to zero."""
    settings, steps, pooling = pair.settings, pair.settings.steps, pair.pooling
    warm = max(1, round(WARM_UP * steps))
    warm = warm if settings.minutes is None else min(warm, TIMED_WARM_UP)

    def autocast() -> AbstractContextManager[Any]:
        if settings.precision == "bfloat16":
            return torch.autocast(accelerator.device.type, torch.bfloat16)
        return accelerator.autocast()  # the choice of `accelerate launch`

    def loss(student: nn.Module, batch: Batch) -> Tensor:
        with autocast():
            return weighted(batch_terms(student, pair.teacher, batch, settings, pooling), settings)

    def judge() -> float:
        with autocast():
            return weighted(pair.judge(sequences), settings)

    parameters = [parameter for parameter in pair.student.parameters() if parameter.requires_grad]
    sizes = [max(float(p.detach().float().square().mean().sqrt()), SMALLEST_RMS) for p in parameters]
    groups = [{"params": [p], "lr": settings.learning_rate * size} for p, size in zip(parameters, sizes, strict=True)]
    return Training(
        pair.student,
        torch.optim.Adam(groups, betas=(0.9, 0.98)),
        rate=lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm)),
        loss=loss,
        judge=judge,
        sequences=sequences,
        batch_size=settings.batch_size,
        steps=steps,
        look_every=settings.evaluate_every,
        accelerator=accelerator,
        seed=seed,
        work=work,
        title=title,
        patience=settings.patience,
        seconds=None if settings.minutes is None else 60 * settings.minutes,
    )


def _write(
    pair: Pair,
    target: Path,
    lesson: Lesson,
    source: Source,
    seed: int,
    done: Progress,
    before: dict[str, float],
    judged: dict[str, float],
) -> RecoveryReport:
    """Write the best student and evaluate it as read back; write the input if the student is no better."""
    settings, sequences = pair.settings, lesson.sequences
    trained = sum(p.numel() for p in pair.student.parameters() if p.requires_grad)
    first = weighted(before, settings)
    with written_at_once(target) as temporary:
        provenance = {**settings.to_dict(), "seed": seed, "steps_taken": done.step, "held_out_before": first}
        provenance |= {} if source.task is None else {"task": source.task, "teacher": pair.original.name}
        fresh = pair.write(temporary, provenance) if pair.set_best(done.best) else None
        after = before if fresh is None else pair.judge(sequences, fresh)
        better = weighted(after, settings) < first
        if fresh is None or not better:
            shutil.rmtree(temporary)
            _write_input(pair, temporary, source)
            after = before
        report = RecoveryReport(
            output=str(target),
            task=source.task,
            mode=settings.mode,
            trained=trained,
            steps=done.step,
            stopped_early=done.step < settings.steps and not _out_of_time(done, settings),
            kept_input=not better,
            held_out_before=first,
            held_out_after=weighted(after, settings),
            terms_before=before,
            terms_after=after,
            training_sequences=len(sequences.training),
            held_out_sequences=len(sequences.held_out),
            table_bytes=table_of(pair.student).total_bits() // 8,
            metrics_before=judged,
            metrics_after=lesson.judge(fresh, settings.precision) if fresh is not None and better else judged,
            seconds=done.seconds,
        )
        if better:
            _describe(pair, fresh, temporary, report)
    return report


def _out_of_time(done: Progress, settings: Recovery) -> bool:
    return settings.minutes is not None and done.seconds >= 60 * settings.minutes


def _write_input(pair: Pair, target: Path, source: Source) -> None:
    """Write the input: its folder, or with a task the untrained student with the teacher's prediction layer."""
    if source.task is None:
        shutil.copytree(pair.folder, target)
    else:
        pair.start_again()
        pair.write(target, None)
        if (pair.folder / "README.md").is_file():
            shutil.copyfile(pair.folder / "README.md", target / "README.md")


def _describe(pair: Pair, fresh: Any, folder: Path, report: RecoveryReport) -> None:
    """Add the training and the new errors of the rows to the model card."""
    figures = {"weighted": (report.held_out_before, report.held_out_after)}
    figures |= {name: (report.terms_before[name], value) for name, value in report.terms_after.items()}
    figures |= {f"{report.task} dev, {n}": (report.metrics_before[n], v) for n, v in report.metrics_after.items()}
    counts = report.training_sequences, report.held_out_sequences
    done = Recovered(report.task, report.mode, report.steps, *counts, figures)
    compressed, page = load_report(pair.folder), read_page(pair.folder)
    if compressed is None:  # written by an earlier version
        (folder / "README.md").write_text(add_recovered(pair.folder, done), encoding="utf-8")
        return
    errors = reconstruction(rows_of(pair.teacher), table_of(fresh))
    now = replace(
        compressed,
        output=report.output,
        architecture=type(fresh).__name__,
        relative_error=errors.relative_error,
        mean_cosine=errors.mean_cosine,
        weighted_relative_error=None,  # the counts are not known here
        weighted_mean_cosine=None,
        model_bytes_after=weight_bytes(folder),
        change=None,  # measured again by whoever has the text
        change_unrecovered=compressed.change,
        recovered=[*compressed.recovered, done],
        folder=None if compressed.folder is None else Folder.of(folder, compressed.folder.bytes_before),
    )
    write_card(now, folder, page, original_text(page, own=True))


def _identity(seed: int, pair: Pair, source: Source, lesson: Lesson, processes: int) -> dict[str, Any]:
    """Everything that a run depends on; a checkpoint is resumed only if all is equal."""
    files = [*weight_files(pair.folder), *weight_files(pair.original), *(Path(file) for file in source.text)]
    digests = [_digest(file) for file in files]
    identity = {"settings": pair.settings.to_dict(), "seed": seed, "processes": processes, "files": digests}
    rows = {} if source.task is None else {"task": source.task, "rows": lesson.sequences.digest()}
    return identity | rows


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _work_folder(target: Path, identity: dict) -> Path:
    """The folder of this run's checkpoints; a ValueError if it has those of another run, or can't be created."""
    work = work_folder(target, "recover")
    note = work / "run.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != identity:
        raise ValueError(f"{work} holds an interrupted run of other settings, text or models; remove it to start again")
    write_whole(note, json.dumps(identity))
    return work
