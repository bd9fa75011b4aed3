"""Code the linear maps of a model, each behind those that are coded already."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vocabpress.calibrate.calibration import Calibration
from vocabpress.calibrate.layers import Stack, find_stacks
from vocabpress.calibrate.metric import TableMetric
from vocabpress.calibrate.moments import Moments, measure_moments, read_directly
from vocabpress.calibrate.observed import input_rows
from vocabpress.calibrate.outputs import Outputs, Reading, dtype_to_run_in, read_outputs
from vocabpress.calibrate.own import writes
from vocabpress.chunks import chunks
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.inference import lookup
from vocabpress.hf.maps import find_maps, set_weight, weight_of, write_counts
from vocabpress.job.rates import Piece, map_piece
from vocabpress.methods.ldlq import LDLQ, check_map
from vocabpress.progress import Bar

SEQUENCES, FEWEST, BATCH = 768, 64, 16  # that maps are calibrated on
WINDOW, LENGTH = 128, 256  # tokens of a sequence: of a causal language model, and of others at most
WEIGHTS = 17 * 10**9  # of the body times sequences: two cores need a minute or two for as much


@dataclass(frozen=True)
class Coded:
    """A coded map.

    Attributes:
        form: What it is stored in, (outputs, inputs).
        shift: What is added to the bias, (outputs), so that mean outputs stay; None for embeddings.
        error: Sum of squared errors of the weight.
        squares: Sum of squares of the weight.
    """

    form: CompressedEmbedding
    shift: Tensor | None
    error: float
    squares: float


class Body:
    """The linear maps of a checkpoint, in a copy of the model that is calibrated and changed.

    Args:
        folder: Folder of the checkpoint.
        size: Weights of the model without its token table.
        stored: Their dtype in the checkpoint.
        text: Files to calibrate on.
        names: Maps that may be coded, those of the model that is compressed: here it may have another head.
        method: How maps are coded.
        seed: Decides which lines of the text.
        device: Where to run.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: If the text can't be read, or a map can't be coded.
    """

    def __init__(
        self,
        folder: Path,
        size: int,
        stored: torch.dtype,
        text: Sequence[Path],
        names: Collection[str],
        method: LDLQ,
        seed: int,
        device: str | None,
        progress: bool,
    ) -> None:
        place = torch.device(device or "cpu")
        sequences = max(FEWEST, min(SEQUENCES, WEIGHTS // size))
        dtype = dtype_to_run_in(stored, place)
        length = WINDOW if writes(folder) else LENGTH
        reading = Reading(text, sequences, BATCH, length, seed, place, progress, stream=True, dtype=dtype)
        self.outputs: Outputs = read_outputs(folder, reading)
        self.outputs.model.config.use_cache = False
        self.method, self.progress = method, progress
        self.folder = folder
        model, batches = self.outputs.model, self.outputs.batches
        maps = {name: module for name, module in find_maps(model).items() if name in names}
        metric, before = TableMetric(), {name: write_counts(module) for name, module in maps.items()}
        self.moments: dict[str, Moments] = measure_moments(model, maps, batches, progress, metric.add)
        self.measured = metric.calibration(self.outputs)
        apart = read_directly({name: maps[name] for name, seen in self.moments.items() if not seen.tokens}, batches[0])
        apart |= {name for name, module in maps.items() if write_counts(module) != before[name]}
        self.maps: Mapping[str, nn.Module] = {name: module for name, module in maps.items() if name not in apart}
        for name, module in self.maps.items():
            with named(name):
                check_map(weight_of(module), self.moments[name].inputs, self.moments[name].outputs)

    def with_metric(self, known: Calibration) -> Calibration:
        """A calibration with the metric of the token table, and the weights that a tied head gives to tokens."""
        found = known.joined(self.measured)
        return found if found.predicted is None else found.by_predictions()

    @property
    def idle(self) -> list[str]:
        """Maps that no output depends on."""
        return [name for name in self.maps if self.moments[name].idle]

    def pieces(self) -> dict[str, Piece]:
        """The rates of each map, and what they cost the output for a token."""
        found = {}
        for name, module in self.maps.items():
            seen, weight = self.moments[name], weight_of(module)
            cost = self.method.sensitivity(weight, seen.inputs, seen.outputs) * seen.coherence
            rows, columns = weight.shape
            found[name] = map_piece((rows, columns), cost, self.method)
        return found

    def start_again(self, original: Any) -> None:
        """Take the numbers of the maps from the original."""
        for name, module in self.maps.items():
            module.load_state_dict(original.base_model.get_submodule(name).state_dict())

    @torch.no_grad()
    def read(self, table: CompressedEmbedding) -> None:
        """Go on with the rows of a compressed token table, and the head that is tied to it."""
        weight: Any = input_rows(self.outputs.model)[0].weight
        for part in chunks(*weight.shape):
            weight[part] = lookup(table, torch.arange(part.start, part.stop, device=table.device)).to(weight)

    def code(self, bits: Mapping[str, float], in_sequence: bool = True) -> dict[str, Coded]:
        """Code the maps at these rates, layer by layer; or all for the inputs that the original gives them."""
        found: dict[str, Coded] = {}
        total = sum(weight_of(module).numel() for module in self.maps.values())
        with Bar(total=total, desc="coding linear maps", disable=not self.progress) as bar:

            def code(name: str, inputs: Tensor, mean: Tensor) -> None:
                found[name] = self._one(name, inputs, mean, bits[name])
                bar.update(weight_of(self.maps[name]).numel())

            def code_as_measured(kind: type[nn.Module]) -> None:
                for name, module in self.maps.items():
                    if name not in found and isinstance(module, kind):
                        code(name, self.moments[name].inputs, self.moments[name].mean)

            code_as_measured(nn.Embedding)  # every layer is behind these
            for stack in find_stacks(self.outputs.model, self.outputs.batches) if in_sequence else ():
                for number in stack.run():
                    inside = self._of_layer(stack, number)
                    for name, (inputs, mean) in stack.inputs_of(number, inside).items():
                        code(name, inputs, mean)
            code_as_measured(nn.Module)
        return {name: found[name] for name in self.maps}

    def _of_layer(self, stack: Stack, number: int) -> dict[str, nn.Module]:
        inside = set(stack.layers[number].modules())
        return {name: module for name, module in self.maps.items() if module in inside}

    def _one(self, name: str, inputs: Tensor, mean: Tensor, bits: float) -> Coded:
        module = self.maps[name]
        weight = weight_of(module).float().clone()
        with named(name):
            form = self.method.fit(weight, inputs, self.moments[name].outputs, bits)
        error = weight - form.dense().detach()
        shift = None if isinstance(module, nn.Embedding) else error @ mean
        set_weight(module, weight - error, shift)
        return Coded(form, shift, float(error.square().sum()), float(weight.square().sum()))


@contextmanager
def named(name: str) -> Iterator[None]:
    """Let errors name the map."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{name} can't be coded: {error}") from None
