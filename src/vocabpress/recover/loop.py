"""The training loop, through accelerate: one process, several GPUs or several machines, resumable at any checkpoint."""

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vocabpress.hf.inner import is_quantised
from vocabpress.progress import Bar
from vocabpress.recover.objective import Batch, terms, trace
from vocabpress.recover.settings import Recovery, RecoveryReport
from vocabpress.recover.text import Sequences, batch_plan

if TYPE_CHECKING:
    from accelerate import Accelerator

SMALLEST_RMS = 1e-3  # of a tensor, as far as its learning rate goes: biases start at zero
WARM_UP = 0.05


@dataclass
class Progress:
    """How far a run has come; accelerate saves it with the rest.

    Attributes:
        step: Taken.
        best_loss: On held-out text.
        best: The trained tensors as they were then, on the CPU.
        stale: Looks at held-out text since.
        seconds: Of training.
    """

    step: int = 0
    best_loss: float = float("inf")
    best: dict[str, Tensor] = field(default_factory=dict)
    stale: int = 0
    seconds: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """For accelerate's checkpoints."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        vars(self).update(state)


def make_accelerator(device: str | None) -> "Accelerator":
    """Accelerate's view of the machine.

    Raises:
        ValueError: If accelerate is not installed.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise ValueError("recovery needs accelerate; pip install 'vocabpress[train]'") from None
    # A pooler gets no gradient: DistributedDataParallel must not wait for one.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[unused])


def share(report: RecoveryReport | None) -> RecoveryReport:
    """The main process's report, in every process."""
    from accelerate.utils import broadcast_object_list

    (shared,) = broadcast_object_list([report])
    assert shared is not None  # the main process made it
    return shared


def parameter_groups(parameters: Sequence[nn.Parameter], learning_rate: float) -> list[dict[str, Any]]:
    """One group a tensor, its rate relative to the tensor's root mean square."""
    sizes = [max(float(p.detach().float().square().mean().sqrt()), SMALLEST_RMS) for p in parameters]
    return [{"params": [p], "lr": learning_rate * size} for p, size in zip(parameters, sizes, strict=True)]


@torch.no_grad()
def held_out_terms(
    student: nn.Module, teacher: nn.Module, sequences: Sequences, settings: Recovery, device: torch.device
) -> dict[str, float]:
    """The loss's terms, unweighted, on all held-out sequences; each batch counts by its labels, or its tokens."""
    student.eval()
    order = sorted(sequences.held_out, key=lambda example: len(example["input_ids"]))
    sums: dict[str, float] = {}
    counted = 0
    for start in range(0, len(order), settings.batch_size):
        batch = ready(sequences.collate(order[start : start + settings.batch_size]), teacher, device)
        of_rows = "labels" in batch and batch["labels"].dim() == 1
        count = len(batch["labels"]) if of_rows else int(batch["attention_mask"].sum())
        counted += count
        for name, value in _terms(student, teacher, batch, settings).items():
            sums[name] = sums.get(name, 0.0) + float(value) * count
    return {name: value / counted for name, value in sums.items()}


def weighted(found: dict[str, Any], settings: Recovery) -> Any:
    """The loss, from its terms."""
    return sum(settings.weights[name] * value for name, value in found.items())


def ready(batch: Batch, model: nn.Module, device: torch.device) -> Batch:
    """A batch on the device, with what a decoder reads where the model has an encoder and a decoder."""
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    config: Any = model.config
    if config.is_encoder_decoder:
        batch["decoder_input_ids"] = batch["input_ids"]
    return batch


def _terms(student: nn.Module, teacher: nn.Module, batch: Batch, settings: Recovery) -> dict[str, Tensor]:
    wanted = settings.logits > 0
    with torch.no_grad():
        aim = trace(teacher, {name: tensor for name, tensor in batch.items() if name != "labels"}, wanted)
    found = terms(trace(student, batch, wanted), aim, batch["attention_mask"], settings.normalised)
    return {name: value for name, value in found.items() if settings.weights[name] > 0}


@dataclass
class Run:
    """One training run.

    Attributes:
        student: Its trainable tensors require gradients, all others do not.
        teacher: On the same device.
        sequences: What it is trained on.
        settings: How long and how fast.
        accelerator: See `make_accelerator`.
        work: Folder of the checkpoints.
        seed: Of the order of the text.
        show: Whether to draw a progress bar.
    """

    student: nn.Module
    teacher: nn.Module
    sequences: Sequences
    settings: Recovery
    accelerator: "Accelerator"
    work: Path
    seed: int
    show: bool

    def train(self, first_loss: float) -> Progress:
        """Train until the steps are done or held-out text no longer gains.

        Args:
            first_loss: On held-out text, before the first step; a run that never gets below it keeps no tensors.
        """
        settings, accelerator = self.settings, self.accelerator
        trained = {name: p for name, p in self.student.named_parameters() if p.requires_grad}
        groups = parameter_groups(list(trained.values()), settings.learning_rate)
        optimiser = torch.optim.Adam(groups, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, self._rate)
        student, optimiser = accelerator.prepare(self.student, optimiser)
        progress = Progress(best_loss=first_loss)
        accelerator.register_for_checkpointing(progress, schedule)
        saved = self._saved()
        if saved:
            accelerator.load_state(str(saved[-1]))
        begun = time.perf_counter() - progress.seconds
        with Bar(total=settings.steps, initial=progress.step, desc="recovering", disable=not self.show) as bar:
            for batch in self._batches(progress.step):
                student.eval()  # no dropout: the teacher has none, and a resumed run must repeat an uninterrupted one
                with self._autocast():
                    loss = weighted(_terms(student, self.teacher, batch, settings), settings)
                accelerator.backward(loss)
                optimiser.step()
                schedule.step()
                optimiser.zero_grad()
                progress.step += 1
                bar.update()
                if progress.step % settings.evaluate_every == 0 or progress.step == settings.steps:
                    self._look(student, trained, progress)
                    bar.set_note(held_out=f"{progress.best_loss:.4g}")
                    progress.seconds = time.perf_counter() - begun
                    self._save(progress.step)
                    if progress.stale >= settings.patience:
                        break
        return progress

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.settings.precision == "bfloat16":
            return torch.autocast(self.accelerator.device.type, torch.bfloat16)
        return self.accelerator.autocast()  # what `accelerate launch` was told

    def _rate(self, step: int) -> float:
        warm = max(1, round(WARM_UP * self.settings.steps))
        return min((step + 1) / warm, (self.settings.steps - step) / max(1, self.settings.steps - warm))

    def _batches(self, done: int) -> Iterator[Batch]:
        """This process's batches from step ``done`` on; processes take them in turn."""
        processes = self.accelerator.num_processes
        lengths = [len(example["input_ids"]) for example in self.sequences.training]
        plan = batch_plan(lengths, self.settings.batch_size, self.settings.steps * processes, self.seed)
        mine = plan[done * processes + self.accelerator.process_index :: processes]
        dataset: Any = self.sequences.training
        loader = DataLoader(dataset, batch_sampler=mine, collate_fn=self.sequences.collate)
        return (ready(batch, self.teacher, self.accelerator.device) for batch in loader)

    def _look(self, student: nn.Module, trained: dict[str, nn.Parameter], progress: Progress) -> None:
        """Judge the student on held-out text; every process computes the same."""
        with self._autocast():
            found = held_out_terms(student, self.teacher, self.sequences, self.settings, self.accelerator.device)
        loss = weighted(found, self.settings)
        if loss < progress.best_loss:
            progress.best_loss, progress.stale = loss, 0
            progress.best = {name: p.detach().cpu().clone() for name, p in trained.items()}
        else:
            progress.stale += 1

    def _saved(self) -> list[Path]:
        """The checkpoints there are, oldest first; at most one but for a moment."""
        return sorted(self.work.glob("step-*[0-9]"), key=lambda folder: int(folder.name.removeprefix("step-")))

    def _save(self, step: int) -> None:
        """Write a checkpoint whole, give it its name, then drop the older ones.

        Raises:
            ValueError: If the disk is full, for example.
        """
        place = self.work / f"step-{step}"
        fresh = place.with_suffix(".new")
        codes = any(is_quantised(parameter) for parameter in self.student.parameters())
        try:
            self.accelerator.save_state(str(fresh), safe_serialization=not codes)  # others are pickled
        except (OSError, RuntimeError, SafetensorError) as error:  # each library's own, for a full disk
            shutil.rmtree(fresh, ignore_errors=True)
            reason = str(error).splitlines()[0]
            raise ValueError(f"can't write {place}: {reason}; free some space or give another output") from None
        self.accelerator.wait_for_everyone()
        if self.accelerator.is_main_process:
            fresh.rename(place)
            for older in self._saved()[:-1]:
                shutil.rmtree(older)
        self.accelerator.wait_for_everyone()
