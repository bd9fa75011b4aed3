"""Memory of compressing a large checkpoint, and of a small compressed one after loading: writes results/memory.json.

python benchmarks/memory.py [--gigabytes 10] [--folder DIR] [--methods svd tcq] [--ratios 25 103]

A checkpoint in bfloat16 of random numbers, in shards, a tenth of it the tied table of 2,048 columns, is compressed by
`vocabpress compress` in a separate process, which is killed at 4 GB of anonymous memory. The folder needs twice the
checkpoint's bytes. Then all-MiniLM-L6-v2 is compressed and loaded, and the memory of its table is compared with its
file.
"""

import argparse
import gc
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, LlamaConfig, LlamaForCausalLM

from common import RESULTS, SAMPLE
from gauge import watch
from vocabpress import Budget, compress, read_with
from vocabpress.chunks import chunks
from vocabpress.hf.modules import owned_tables
from vocabpress.results import Result, read_results, write_results

FILE = RESULTS / "memory.json"
ROWS, WIDTH = 262144, 2048  # of the table of 10 GB
LIMIT = 4 * 10**9
RATIOS = {"svd": 25.0, "tcq": 103.0, "fastscan": 25.0}
SHARD = 10**9
WAYS: dict[str, dict[str, Any]] = {
    "as stored": {"resident": "codes"},
    "hot rows, 1 MB": {"hot_rows": "1MB"},
    "resident": {"resident": "dense"},
}


def random(shape: torch.Size, generator: torch.Generator, is_table: bool) -> Tensor:
    """Random bfloat16 numbers; a table has falling variances and rows of different lengths, like a real one."""
    values = torch.empty(shape, dtype=torch.bfloat16)
    rows = values.view(-1, shape[-1])
    deviations = torch.arange(1, shape[-1] + 1) ** -0.35 if is_table else torch.full((shape[-1],), 0.02)
    for part in chunks(len(rows), shape[-1]):
        made = torch.randn(rows[part].shape, generator=generator) * deviations
        if is_table:
            made *= (0.3 * torch.randn(len(made), 1, generator=generator)).exp()
        rows[part] = made
    return values


def shards(model: LlamaForCausalLM, seed: int) -> Iterator[dict[str, Tensor]]:
    """The tensors of a model, in shards."""
    generator, shard, size = torch.Generator().manual_seed(seed), dict[str, Tensor](), 0
    for name, parameter in model.named_parameters():
        shard[name] = random(parameter.shape, generator, "embed_tokens" in name)
        size += shard[name].nbytes
        if size > SHARD:
            yield shard
            shard, size = {}, 0
    yield shard


def make(folder: Path, gigabytes: float, seed: int) -> None:
    """Write a checkpoint of about the given size."""
    rows = round(ROWS * gigabytes / 10)
    layer = 4 * WIDTH**2 + 3 * WIDTH * 4 * WIDTH
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=max(1, round((gigabytes * 10**9 / 2 - rows * WIDTH) / layer)),
        num_attention_heads=16,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    config.save_pretrained(folder)
    places: dict[str, str] = {}
    for number, shard in enumerate(shards(model, seed)):
        name = f"model-{number:05d}.safetensors"
        save_file(shard, folder / name, {"format": "pt"})
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": 2 * model.num_parameters()}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def compressing(source: Path, out: Path, method: str, gigabytes: float, seed: int) -> Result:
    """Compress the checkpoint through the command line."""
    ratio, config = RATIOS[method], json.loads((source / "config.json").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "vocabpress.cli", "compress", str(source), "-o", str(out), "--method", method]
    command += ["--ratio", f"{ratio:g}", "--seed", str(seed), "--no-measure", "--json"]
    used = watch(command, LIMIT)
    report = json.loads(used.output.splitlines()[-1])
    sizes = {
        "model_before": report["model_bytes_before"],
        "model": report["model_bytes_after"],
        "table_before": report["table_bytes_before"],
        "table": report["table_bytes_after"],
        "limit": LIMIT,
    }
    settings = {"method": method, "fields": report["settings"], "ratio": ratio, "gigabytes": gigabytes, "seed": seed}
    settings |= {"rows": config["vocab_size"], "columns": WIDTH}
    metrics = {
        "anonymous": float(used.anonymous),
        "resident": float(used.resident),
        "seconds": used.seconds,
        "fit_seconds": report["seconds"],
        "relative_error": report["relative_error"],
    }
    shutil.rmtree(out)
    return Result("memory", method, settings, sizes, metrics, used.seconds)


def bytes_of(tensors: list[Tensor], but: set[int]) -> int:
    """Bytes of the storages of tensors, each once, without the storages at the addresses in ``but``."""
    behind = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(size for place, size in behind.items() if place not in but)


def living() -> list[Tensor]:
    """All tensors with data in this process."""
    gc.collect()
    return [found for found in gc.get_objects() if type(found) in (Tensor, torch.nn.Parameter) and not found.is_meta]


def loaded(way: str, ratio: float, folder: Path, seed: int) -> Result:
    """Memory of the table of a loaded encoder after it has read every token."""
    start, known = time.perf_counter(), {tensor.untyped_storage().data_ptr() for tensor in living()}
    model: Any = AutoModel.from_pretrained(folder).eval()
    read_with(model, **WAYS[way])
    ((_, table),) = owned_tables(model).items()
    with torch.no_grad():
        for first in range(0, table.num_embeddings, 256):
            model(input_ids=torch.arange(first, min(first + 256, table.num_embeddings))[None])
    own = [*table.parameters(), *table.buffers()]
    known |= {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    sizes = {
        "table": table.total_bits() // 8,
        "table_memory": sum(tensor.nbytes for tensor in own),
        "table_kept": bytes_of(living(), known),
        "table_before": table.num_embeddings * table.embedding_dim * 4,
    }
    settings = {"model": "all-MiniLM-L6-v2", "ratio": ratio, "reading": way, "seed": seed}
    settings["method"] = model.config.quantization_config.fitted_by["method"]
    metrics = {"memory_over_file": (sizes["table_memory"] + sizes["table_kept"]) / sizes["table"]}
    return Result("resident", way, settings, sizes, metrics, time.perf_counter() - start)


def main() -> int:
    """Measure the large checkpoint by each method, then the loaded encoder; existing results are not measured again."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument(
        "--folder", type=Path, help="where to write the checkpoint; by default the system's temporary folder"
    )
    parser.add_argument("--methods", nargs="*", default=["svd", "tcq"], choices=RATIOS)
    parser.add_argument("--ratios", nargs="*", default=[25.0, 103.0], type=float, help="ratios of the loaded encoder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    results = read_results(FILE) if FILE.exists() else []
    there = {(row.variant, row.settings["ratio"], row.settings.get("gigabytes")) for row in results}
    wanted = [name for name in arguments.methods if (name, RATIOS[name], arguments.gigabytes) not in there]
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        place = Path(name)
        if wanted:
            make(place / "source", arguments.gigabytes, arguments.seed)
        for method in wanted:
            results.append(compressing(place / "source", place / "out", method, arguments.gigabytes, arguments.seed))
            write_results(FILE, results)
        shutil.rmtree(place / "source", ignore_errors=True)
        for ratio in arguments.ratios:
            ways = [way for way in WAYS if (way, ratio, None) not in there]
            if ways:
                compress(SAMPLE, place / f"small-{ratio:g}", budget=Budget.ratio(ratio), measure=False, progress=True)
            for way in ways:
                with ProcessPoolExecutor(1, get_context("spawn")) as apart:  # without memory left by a fit
                    job = apart.submit(loaded, way, ratio, place / f"small-{ratio:g}", arguments.seed)
                    results.append(job.result())
                write_results(FILE, results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
