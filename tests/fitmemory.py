"""A child process that fits a table mapped from a file, and says how much memory each fit took beside it.

    python fitmemory.py FILE METHOD...       FILE holds bfloat16 rows of WIDTH entries, METHOD is a key of FITS

Chunks and what is kept are small here, so that a second table, or half of one, stands out. Each fit has a process of
its own, forked when all is imported.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

import torch
import torch._dynamo  # which optimisers import when they are first made

from vocabpress import (
    SVD,
    TCQ,
    Autoencoder,
    Binary,
    Blockwise,
    Budget,
    Compositional,
    DiscBlock,
    FastScan,
    GroupReduce,
    LightToken,
    NearestKronecker,
    Product,
    Residual,
    Stacked,
    Uniform,
)
from vocabpress.embeddings.kernels.watch import bytes_of
from vocabpress.fitting import binary, shards, table, trellis

WIDTH = 192
FITS = {
    "svd": SVD(),
    "svd int8": SVD("int8"),
    "uniform": Uniform(bits=2, scales="row"),
    "uniform, columns": Uniform(bits=1, scales="column"),
    "kronecker": NearestKronecker(width=48),
    "kronecker, blocks": NearestKronecker(rows=4, width=12),
    "tcq": TCQ(memory=8, blocks=2),
    "fastscan": FastScan(blocks=2, beam=1, rounds=1),
    "product": Product(bits=4, segments=48, shared=False, rotation="none", factors="int8", rounds=2),
    "product, rotated": Product(bits=4, segments=24, shared=False, rotation="opq", factors="int8", rounds=1, turns=1),
    "residual": Residual(bits=4, stages=2, segments=12, rotation="pca", factors="int8", rounds=1, beam=1),
    "discblock": DiscBlock(),
    "groupreduce": GroupReduce(blocks=3, rounds=1),
    "blockwise": Blockwise(SVD(), blocks=3),
    "svd+uniform": Stacked(SVD(), Uniform(bits=1, scales="column"), share=0.25),
    "binary": Binary(epochs=1, batch_size=512),
    "autoencoder": Autoencoder(epochs=1, batch_size=512),
    "compositional": Compositional(epochs=1, batch_size=512, books=16),
    "lighttoken": LightToken(rank=8, stages=2, epochs=1, polish=1),
}


def anonymous() -> int:
    """Bytes of this process that no file holds."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))


def peak_of(run) -> int:
    """The most bytes that ``run`` takes at a time, looked at each millisecond."""
    before, most, done = anonymous(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.is_set():
            most = max(most, anonymous())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run()
    done.set()
    watcher.join()
    return most - before


def main(file: str, names: list[str]) -> None:
    torch.set_num_threads(1)
    trellis.CHUNK_ENTRIES = 2**16
    shards.ENTRIES_PER_CHUNK, table.ENTRIES_CACHED, binary.REFIT_ROWS = 2**17, 2**19, 1000
    rows = torch.from_file(file, size=Path(file).stat().st_size // 2, dtype=torch.bfloat16).view(-1, WIDTH)
    weights = 1 / torch.arange(1.0, len(rows) + 1)
    bytes_of([weights])()  # a loop that all share, compiled where nobody has done so before
    for name in names:
        if not os.fork():
            form = None

            def fit(name: str = name) -> None:
                nonlocal form
                ratio = 80 if name == "tcq" else 12  # fewer bits take less time
                form = FITS[name].fit(rows, budget=Budget.ratio(ratio), token_weights=weights)

            start = time.perf_counter()
            taken = peak_of(fit)
            held = sum(tensor.numel() * tensor.itemsize for tensor in (*form.parameters(), *form.buffers()))
            said = {"name": name, "taken": taken, "held": held, "seconds": time.perf_counter() - start}
            sys.stdout.write(json.dumps(said) + "\n")
            sys.stdout.flush()
            os._exit(0)
        os.wait()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
