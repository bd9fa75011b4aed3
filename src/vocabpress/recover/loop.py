"""One loop for all training against a model, through accelerate: on one device or several, resumable at any time."""

import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.data import DataLoader

from vocabpress.hf.inner import is_quantised
from vocabpress.progress import Bar
from vocabpress.recover.text import Batch, Sequences, batch_plan, lengths_of, ready

if TYPE_CHECKING:
    from accelerate import Accelerator


def make_accelerator(device: str | None) -> "Accelerator":
    """The accelerator; on ``"cpu"`` no GPU is used, and None lets accelerate choose.

    Raises:
        ValueError: If accelerate is not installed.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError:
        raise ValueError("training needs accelerate; pip install 'vocabpress[train]'") from None
    place = torch.device(device or "cpu")
    if place.type == "cuda" and place.index is not None:
        torch.cuda.set_device(place)
    # A pooler gets no gradient: DistributedDataParallel must not wait for one.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device == "cpu", kwargs_handlers=[unused])


@dataclass
class Progress:
    """The state of a run, which accelerate saves with the rest.

    Attributes:
        step: Steps taken.
        losses: Held-out loss before the first step, then at each evaluation.
        best: The trained tensors at the lowest loss, on the CPU; empty if that is the first.
        seconds: Time of training.
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def best_look(self) -> int:
        """The evaluation that `best` is from; 0 is the start."""
        return min(range(len(self.losses)), key=self.losses.__getitem__)

    def state_dict(self) -> dict[str, Any]:
        """For accelerate's checkpoints."""
        return dict(vars(self))

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        vars(self).update(state)


@dataclass
class Training:
    """One training run.

    Attributes:
        model: Tensors that require gradients are trained.
        rate: Step -> factor of the optimiser's learning rates.
        loss: Model and batch -> loss. The model may be wrapped for several devices.
        judge: The held-out loss of the current model.
        batch_size: Sequences a step and process.
        look_every: Steps between evaluations; each writes a checkpoint.
        work: Folder of the checkpoints; None writes none.
        title: Title of the progress bar; empty draws none.
        patience: Evaluations without improvement after which training stops; None never stops early.
        clip: Upper limit of the gradient's norm; None sets no limit.
        seconds: Time of training, that of earlier, interrupted runs included, at most; None sets no limit. Learning
            rates fall at least as fast as the time that is left.
        after_step: Called after each step.
    """

    model: nn.Module
    optimiser: torch.optim.Optimizer
    rate: Callable[[int], float]
    loss: Callable[[nn.Module, Batch], Tensor]
    judge: Callable[[], float]
    sequences: Sequences
    batch_size: int
    steps: int
    look_every: int
    accelerator: "Accelerator"
    seed: int
    work: Path | None = None
    title: str = ""
    patience: int | None = None
    clip: float | None = None
    seconds: float | None = None
    after_step: Callable[[], object] = lambda: None

    def train(self, first_loss: float) -> Progress:
        """Train until the steps are done or the held-out loss stops improving.

        Args:
            first_loss: Held-out loss before the first step; a run that never gets below it has no `Progress.best`.
        """
        accelerator = self.accelerator
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        progress = Progress(losses=[first_loss])
        schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimiser, lambda step: min(self.rate(step), 1 - self._share_of_time(progress))
        )
        model, optimiser = accelerator.prepare(self.model, self.optimiser)
        accelerator.register_for_checkpointing(progress, schedule)
        if self._saved():
            accelerator.load_state(str(self._saved()[-1]))
        begun = time.perf_counter() - progress.seconds
        with Bar(total=self.steps, initial=progress.step, desc=self.title, disable=not self.title) as bar:
            for batch in self._batches(progress.step):
                model.eval()  # no dropout: the teacher has none, and a resumed run must repeat an uninterrupted one
                accelerator.backward(self.loss(model, batch))
                if self.clip is not None:
                    accelerator.clip_grad_norm_(trained.values(), self.clip)
                optimiser.step()
                progress.seconds = self._agreed(time.perf_counter() - begun)
                schedule.step()
                optimiser.zero_grad()
                self.after_step()
                progress.step += 1
                share = self._share_of_time(progress)
                bar.update(max(progress.step, share * self.steps) - bar.n)
                ends = progress.step == self.steps or share == 1
                if progress.step % self.look_every == 0 or ends:
                    progress.losses.append(self.judge())  # every process computes the same
                    if progress.best_look == len(progress.losses) - 1:
                        progress.best = {name: p.detach().cpu().clone() for name, p in trained.items()}
                    bar.set_note(held_out=f"{min(progress.losses):.4g}")
                    progress.seconds = time.perf_counter() - begun
                    self._save(progress.step)
                    patience = len(progress.losses) if self.patience is None else self.patience
                    if ends or len(progress.losses) - 1 - progress.best_look >= patience:
                        break
        return progress

    def _share_of_time(self, progress: Progress) -> float:
        """The share of the time that is over, 0 to 1; 0 without a limit."""
        return 0.0 if self.seconds is None else min(1.0, progress.seconds / self.seconds)

    def _agreed(self, seconds: float) -> float:
        """The main process' clock, if time matters, because all processes must end together."""
        if self.seconds is None or self.accelerator.num_processes == 1:
            return seconds
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([seconds])[0]

    def _batches(self, done: int) -> Iterator[Batch]:
        """This process's batches from step ``done`` on; processes take them in turn."""
        processes, dataset = self.accelerator.num_processes, self.sequences.training
        plan = batch_plan(lengths_of(dataset), self.batch_size, self.steps * processes, self.seed)
        mine = plan[done * processes + self.accelerator.process_index :: processes]
        loader: Any = DataLoader(dataset, batch_sampler=mine, collate_fn=self.sequences.collate)  # pyright: ignore[reportArgumentType]
        return (ready(batch, self.model, self.accelerator.device) for batch in loader)

    def _saved(self) -> list[Path]:
        """Existing checkpoints, oldest first; a second one exists only during `_save`."""
        found = [] if self.work is None else self.work.glob("step-*[0-9]")
        return sorted(found, key=lambda folder: int(folder.name.removeprefix("step-")))

    def _save(self, step: int) -> None:
        """Write a checkpoint under a temporary name, rename it, then delete the older ones."""
        if self.work is None:
            return
        place = self.work / f"step-{step}"
        fresh = place.with_suffix(".new")
        codes = any(is_quantised(parameter) for parameter in self.model.parameters())
        try:
            self.accelerator.save_state(str(fresh), safe_serialization=not codes)  # torch pickles other tensors
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
