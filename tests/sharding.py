"""Two processes that fit the same tables together, and say what each of them got.

    python sharding.py RANK WORLD STORE FOLDER

Each fits the cases in turn, on its own rows, and writes what it has made as FOLDER/CASE.RANK.safetensors.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from cases import low_rank_table
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
from vocabpress.fitting import shards
from vocabpress.fitting.shards import Shards

EXACT = {
    "svd": SVD(),
    "svd int8": SVD("int8"),
    "uniform": Uniform(),
    "uniform, columns": Uniform(scales="column"),
    "kronecker": NearestKronecker(),
    "kronecker, blocks": NearestKronecker(rows=4, width=6),
    "tcq": TCQ(memory=8),
    "fastscan": FastScan(blocks=3, beam=2, rounds=2),
    "product": Product(bits=4, factors="int8"),
    "product, shared": Product(bits=4, rotation="none", shared=True),
    "product, rotated": Product(bits=4, rotation="opq", turns=2),
    "residual": Residual(bits=4, rounds=1, beam=2),
    "groupreduce": GroupReduce(rounds=3),
    "discblock": DiscBlock(),
    "blockwise": Blockwise(SVD("int8"), blocks=3),
    "svd+uniform": Stacked(SVD(), Uniform()),
}
TRAINED = {
    "binary": Binary(epochs=2),
    "autoencoder": Autoencoder(epochs=2),
    "compositional": Compositional(epochs=2),
    "lighttoken": LightToken(rank=4, stages=2, epochs=2, polish=1),
}


def fitted(name, shares=shards.ALONE):
    """A case's form, fitted to the rows of this process."""
    table = low_rank_table(700, 24)
    weights = 1 / torch.arange(1.0, 701).roll(300)
    own = shares.rows(*table.shape)
    draw = torch.Generator().manual_seed(3)
    method = (EXACT | TRAINED)[name]
    some = table[own.start : own.stop]
    return method.fit(some, budget=Budget.ratio(8), token_weights=weights, generator=draw, shards=shares)


def small_chunks():
    """Chunks of 64 rows of 24 entries, so that there is something to share out."""
    torch.set_num_threads(1)
    shards.ENTRIES_PER_CHUNK = 64 * 24


def main(rank, world, store, folder):
    small_chunks()
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    shares = Shards.here()
    for name in EXACT | TRAINED:
        save_file(fitted(name, shares).stored_tensors(), Path(folder) / f"{name}.{rank}.safetensors")
    dist.barrier()  # a process that ends while another still talks to it may be aborted by gloo
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
