"""Fit the token table and the linear maps of a model: to a rate, or to the bytes or the quality of the whole file."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from vocabpress.budget import Budget
from vocabpress.calibrate.calibration import Calibration
from vocabpress.calibrate.counts import vocabulary_order
from vocabpress.embeddings import CompressedEmbedding
from vocabpress.embeddings.inference import dense
from vocabpress.hf.checkpoint import open_tokenizer
from vocabpress.hf.fit import Fitted, Maps, fit
from vocabpress.hf.linears import BODY, LinearOutcome
from vocabpress.hf.maps import put_map, set_weight, weight_of
from vocabpress.hf.report import Change
from vocabpress.hf.sizes import data_bytes, form_tensors, header_bytes
from vocabpress.hf.tables import base_prefix
from vocabpress.job.body import Body, Coded
from vocabpress.job.quality import first_bits
from vocabpress.job.rates import Piece, check_room, least_bytes, share_out, table_piece
from vocabpress.job.search import Bench, Settled, search

TABLE = ""  # the name of the token table among the pieces
GRID = [0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.2, 1.4, 1.6, 1.8, 2, 2.25, 2.5, 3, 3.5, 4, 5, 6, 8]
RETRIES = 3  # of a table that leaves too little for the maps
TABLE_HEADER = 4096  # bytes for names of the table's tensors in the file, before they are known
START_WHOLE_TIED, START_WHOLE = 5.2, 3.3  # bits per weight at which models of either kind lose about 1
MOST_BITS = 8.0
MARGIN = 1.05  # over the least bytes, for headers that grow


@dataclass(frozen=True)
class Coding:
    """A fitted table and the maps that were coded behind it, in so many seconds; what they change, if measured."""

    fitted: Fitted
    maps: Mapping[str, Coded]
    seconds: float
    change: Change | None = None


@dataclass(frozen=True)
class Whole:
    """A model whose table and maps are compressed to one size.

    Attributes:
        bench: The original, and what measures it.
        body: Its linear maps.
        calibration: Which errors of the table matter.
    """

    bench: Bench
    body: Body
    calibration: Calibration

    def to_bits(self, bits: float, settled: Settled) -> tuple[Settled, Maps]:
        """Code all maps at one rate, beside a table that is fitted."""
        return self._install(self._code(settled.fitted, dict.fromkeys(self.body.maps, bits)))

    def to_size(self, limit: int) -> tuple[Settled, Maps]:
        """Fit all, so that the weight file has at most ``limit`` bytes.

        Raises:
            ValueError: If it can't be so small.
        """
        return self._install(self._fit(limit))

    def to_quality(self, quality: float) -> tuple[Settled, Maps]:
        """Fit all, so that the weight file is the smallest of a few that have the quality.

        Raises:
            ValueError: If none has it.
        """
        original = self.bench.original
        entries = original.weight.numel() + sum(weight_of(module).numel() for module in self.body.maps.values())
        rest = TABLE_HEADER - self._room(0, None)
        least = MARGIN * 8 * least_bytes(self._pieces) / entries

        def fit_of(bits: float) -> tuple[float, Coding]:
            bits = max(bits, least)
            coding = self._fit(rest + math.ceil(bits * entries / 8))
            with self._reading(coding):
                return bits, replace(coding, change=self.bench.change(coding.fitted))

        first = min(first_bits(quality, original.ties_head, START_WHOLE_TIED, START_WHOLE), MOST_BITS)
        chosen, fits = search(quality, True, first, MOST_BITS, fit_of, self.bench.progress, "file")
        settled, maps = self._install(chosen)
        return replace(settled, fits=fits), maps

    def _fit(self, limit: int) -> Coding:
        maps = {name: piece for name, piece in self._pieces.items() if name != TABLE}
        fitted, room, header = *self._fit_beside(limit, TABLE_HEADER), TABLE_HEADER
        for _ in range(RETRIES):
            if (lacking := least_bytes(maps) - room) <= 0:
                break
            header += lacking  # the names of the table's tensors take more than was thought
            fitted, room = self._fit_beside(limit, header)
        check_room(maps, limit, room)
        return self._code(fitted, share_out(maps, 8 * room))

    def _fit_beside(self, limit: int, header: int) -> tuple[Fitted, int]:
        """The table in its share of the file, with so many bytes for its names; and the room for the maps."""
        pieces, room, bench = self._pieces, self._room(limit, None) - header, self.bench
        table = pieces[TABLE]
        check_room(pieces, limit, room)
        size = table.costs[list(table.bits).index(share_out(pieces, 8 * room)[TABLE])] // 8
        request = replace(bench.request, budget=Budget.bytes(size))
        fitted = fit(bench.original, request, self.calibration, bench.device, bench.shards, bench.progress)
        return fitted, self._room(limit, fitted.table)

    def _room(self, limit: int, table: CompressedEmbedding | None) -> int:
        """Bytes that a file leaves for the codes of all maps, and for the table unless it is there."""
        original, method, coded = self.bench.original, self.body.method, dict[str, Tensor]()
        places = {f"{base_prefix(original.model)}{name}": module for name, module in self.body.maps.items()}
        with torch.device("meta"):
            for place, module in places.items():  # of the highest rate, whose shapes have the most digits
                rows, columns = weight_of(module).shape
                coded |= form_tensors(place, method.empty(rows, columns, method.rates[-1]))
            gone = {f"{name}.weight" for name in (*places, original.name, *original.tied)}
            state = {name: short(each) for name, each in original.model.state_dict().items() if name not in gone}
        if table is not None:
            state |= form_tensors(original.name, table)
        fixed = data_bytes(original.model, state)
        least = fixed + data_bytes(original.model, coded) * method.rates[0] / method.rates[-1]
        return limit - header_bytes(original.model, state | coded, max(limit, int(least))) - fixed

    @cached_property
    def _pieces(self) -> dict[str, Piece]:
        """The rates of all maps and of the table, and what they cost the output for a token."""
        maps, original, counts = self.body.pieces(), self.bench.original, self.calibration.counts
        if self.calibration.predicted is not None:
            counts = self.calibration.predicted
        if counts is None:
            counts = vocabulary_order(open_tokenizer(self.body.folder), original.shape[0])
        metric = self.calibration.metric
        metric = self.body.measured.metric if metric is None else metric
        assert metric is not None
        bits = [each for each in GRID if self._possible(each)]
        return {**maps, TABLE: table_piece(original.weight.detach(), counts.float(), metric, bits, maps)}

    def _possible(self, bits: float) -> bool:
        try:
            self.bench.method.plans(*self.bench.original.shape, Budget.bits_per_weight(bits))
        except ValueError:
            return False
        return True

    def _code(self, fitted: Fitted, bits: Mapping[str, float]) -> Coding:
        """Code the maps behind a fitted table."""
        start = time.perf_counter()
        self.body.start_again(self.bench.original.model)
        self.body.read(fitted.table)
        return Coding(fitted, self.body.code(bits), time.perf_counter() - start)

    def _install(self, coding: Coding) -> tuple[Settled, Maps]:
        """Put the coded maps into the original, and measure it with the table."""
        outcome, linears = self._outcome(coding.maps, coding.seconds), {}
        for name, each in coding.maps.items():
            put_map(self.bench.original.model, name, each.form, each.shift)
            linears[name] = each.form.config()
        change = self.bench.change(coding.fitted) if coding.change is None else coding.change
        return Settled(coding.fitted, change), (linears, [outcome])

    @contextmanager
    def _reading(self, coding: Coding) -> Iterator[None]:
        """While it lasts, the original has the numbers of the coded maps."""
        base = self.bench.original.model.base_model
        modules = {name: base.get_submodule(name) for name in coding.maps}
        before = {name: {key: each.clone() for key, each in m.state_dict().items()} for name, m in modules.items()}
        try:
            for name, each in coding.maps.items():
                set_weight(modules[name], dense(each.form), each.shift)
            yield
        finally:
            for name, module in modules.items():
                module.load_state_dict(before[name])

    def _outcome(self, coded: Mapping[str, Coded], seconds: float) -> LinearOutcome:
        stored = sum(each.form.total_bits() for each in coded.values())
        weights = [weight_of(self.bench.original.model.base_model.get_submodule(name)) for name in coded]
        entries = sum(weight.numel() for weight in weights)
        return LinearOutcome(
            role=BODY,
            shape=f"{stored / entries:.3f} bits",
            maps=len(coded),
            parameters_before=entries,
            parameters_after=entries,
            bytes_before=sum(weight.numel() * weight.itemsize for weight in weights),
            bytes_after=stored // 8,
            relative_error=sum(each.error for each in coded.values()) / sum(each.squares for each in coded.values()),
            seconds=seconds,
            idle=self.body.idle,
        )


def short(tensor: Tensor) -> Tensor:
    """What is stored of a tensor that is not coded, on the current device, without its numbers."""
    return torch.empty(tensor.shape, dtype=torch.float16 if tensor.dtype == torch.float32 else tensor.dtype)
