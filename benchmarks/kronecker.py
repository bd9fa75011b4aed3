"""Kronecker products against a free low rank of the same bytes, untrained: writes results/kronecker.json.

python benchmarks/kronecker.py

The table and each linear map of all-MiniLM-L6-v2 as the presets of KroneckerBERT store them, in float16; the low rank
is the truncated SVD of the largest rank that fits the same bytes.
"""

import sys
import time

from torch import Tensor
from tqdm import tqdm

from common import RESULTS, SAMPLE, parse
from vocabpress import PRESETS, SVD, Budget, CompressedEmbedding
from vocabpress.fitting.kronecker import fit_kronecker
from vocabpress.hf.checkpoint import load_model
from vocabpress.hf.linears import find_linears, right_shape
from vocabpress.hf.original import Original
from vocabpress.results import Result, write_results

WIDTHS = (2, 4, 8, 16, 24, 48)  # widths of b; they divide 384


def squared_error(form: CompressedEmbedding, weight: Tensor) -> float:
    """The sum of the squared errors of the stored form."""
    return float((form.round_to_stored().dense().detach().double() - weight).square().sum())


def compare(part: str, setting: str, maps: list[tuple[Tensor, tuple[int, int]]], whole: float) -> list[Result]:
    """Compare both forms for all maps of a kind.

    Args:
        part: Name of the kind.
        setting: Name of the size.
        maps: Each a weight and the shape of its right factor.
        whole: The sum of squares to which the error is relative.
    """
    totals = {"kronecker": [0.0, 0, 0.0], "svd": [0.0, 0, 0.0]}
    for weight, (rows, width) in tqdm(maps, desc=f"{part}, {setting}", unit="map"):
        start = time.perf_counter()
        kronecker = fit_kronecker(weight, rows, width, 1, "float16")
        middle = time.perf_counter()
        low_rank = SVD().fit(weight, budget=Budget.bytes(kronecker.total_bits() // 8))
        for name, form, seconds in (
            ("kronecker", kronecker, middle - start),
            ("svd", low_rank, time.perf_counter() - middle),
        ):
            for place, added in enumerate((squared_error(form, weight), form.total_bits() // 8, seconds)):
                totals[name][place] += added
    before = sum(weight.numel() for weight, _ in maps) * 4
    return [
        Result(
            "kronecker",
            f"{part}, {setting}: {name}",
            {"model": "all-MiniLM-L6-v2", "part": part, "setting": setting, "method": name, "maps": len(maps)},
            {"table": int(stored), "table_float32": before},
            {"relative_error": error / whole, "ratio_to_float32": before / stored},
            seconds,
        )
        for name, (error, stored, seconds) in totals.items()
    ]


def main() -> int:
    """Measure the table at several widths, then the linear maps of each preset."""
    parse(__doc__)
    model = load_model(SAMPLE).float()
    table = Original.of(model).weight.detach()
    spread = float((table - table.mean(0)).double().square().sum())  # errors of tables are relative to this everywhere
    results = [row for width in WIDTHS for row in compare("table", f"n = {width}", [(table, (1, width))], spread)]
    for name, preset in PRESETS.items():
        for role in preset.linears.roles:
            maps = [
                (model.get_parameter(f"{info.name}.weight").detach(), right_shape(info, preset.linears))
                for info in find_linears(model)
                if info.role == role
            ]
            squares = sum(float(weight.double().square().sum()) for weight, _ in maps)
            results += compare(role, name, maps, squares)
    write_results(RESULTS / "kronecker.json", results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
