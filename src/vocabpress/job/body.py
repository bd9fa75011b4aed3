"""Code the linear maps of a model, each behind those that are coded already."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vocabpress.calibrate.layers import Stack, find_stacks
from vocabpress.calibrate.moments import Moments, measure_moments
from vocabpress.calibrate.outputs import Outputs, Reading, read_outputs
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.hf.maps import find_maps, set_weight, weight_of
from vocabpress.methods.ldlq import LDLQ
from vocabpress.progress import Bar

SEQUENCES, LENGTH, BATCH = 768, 128, 16  # that maps are calibrated on


@dataclass(frozen=True)
class Coded:
    """A coded map.

    Attributes:
        form: What it is stored in, (outputs, inputs).
        shift: What is added to the bias, (outputs), so that mean outputs stay.
        error: Sum of squared errors of the weight.
        squares: Sum of squares of the weight.
    """

    form: CompressedEmbedding
    shift: Tensor
    error: float
    squares: float


class Body:
    """The linear maps of a checkpoint, in a copy of the model that is calibrated and changed.

    Args:
        folder: Folder of the checkpoint.
        text: Files to calibrate on.
        method: How maps are coded.
        seed: Decides which lines of the text.
        device: Where to run.
        progress: Whether to draw progress bars on stderr.
    """

    def __init__(
        self, folder: Path, text: Sequence[Path], method: LDLQ, seed: int, device: str | None, progress: bool
    ) -> None:
        place = torch.device(device or "cpu")
        reading = Reading(text, SEQUENCES, BATCH, LENGTH, seed, place, progress)
        self.outputs: Outputs = read_outputs(folder, reading)
        self.outputs.model.config.use_cache = False
        self.method, self.progress = method, progress
        self.maps: Mapping[str, nn.Module] = find_maps(self.outputs.model)
        self.moments: dict[str, Moments] = measure_moments(
            self.outputs.model, self.maps, self.outputs.batches, progress
        )

    def sensitivities(self) -> dict[str, float]:
        """What an error of each map costs a token, for codes whose own error is 1."""
        found = {}
        for name, module in self.maps.items():
            seen = self.moments[name]
            cost = self.method.sensitivity(weight_of(module), seen.inputs, seen.outputs)
            found[name] = cost * seen.coherence
        return found

    def code(self, bits: Mapping[str, float]) -> dict[str, Coded]:
        """Code the maps at these rates, layer by layer."""
        found: dict[str, Coded] = {}
        bar = Bar(total=sum(weight_of(module).numel() for module in self.maps.values()), desc="linear maps", disable=not self.progress)
        stacks = find_stacks(self.outputs.model, self.outputs.batches)
        with bar:
            for number, stack in (each for stack in stacks for each in stack.run()):
                names = self._of_layer(stack, number)
                for name, (inputs, mean) in stack.inputs_of(number, names).items():
                    found[name] = self._one(name, inputs, mean, bits[name], bar)
            for name in self.maps.keys() - found.keys():
                seen = self.moments[name]
                found[name] = self._one(name, seen.inputs, seen.mean, bits[name], bar)
        return {name: found[name] for name in self.maps}

    def _of_layer(self, stack: Stack, number: int) -> dict[str, nn.Module]:
        inside = set(stack.layers[number].modules())
        return {name: module for name, module in self.maps.items() if module in inside}

    def _one(self, name: str, inputs: Tensor, mean: Tensor, bits: float, bar: Bar) -> Coded:
        module = self.maps[name]
        weight = weight_of(module).float().clone()
        try:
            form = self.method.fit(weight, inputs, self.moments[name].outputs, bits)
        except ValueError as error:
            raise ValueError(f"{name} can't be coded: {error}") from None
        error = weight - form.dense().detach()
        shift = error @ mean
        set_weight(module, weight - error, shift)
        bar.update(weight.numel())
        return Coded(form, shift, float(error.square().sum()), float(weight.square().sum()))
