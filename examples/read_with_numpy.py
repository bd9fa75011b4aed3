"""Read a compressed table with numpy alone: an independent implementation of docs/format.md, for ports and tests.

    python examples/read_with_numpy.py FOLDER

It shares no code with vocabpress. It builds whole tables in float32, and is written for clarity, not for speed.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray
Config = dict[str, Any]
Tensors = dict[str, Array]
DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2", "U8": "u1", "I64": "<i8", "I32": "<i4"}


def read_safetensors(path: Path) -> tuple[dict[str, str], Tensors, dict[str, str]]:
    """Metadata, tensors and digests of a file: 8 bytes of length, a JSON header, then the bytes of the tensors."""
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]
    metadata = header.pop("__metadata__", {})
    tensors, digests = {}, {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        digests[name] = hashlib.sha256(body[first:last]).hexdigest()
        values = np.frombuffer(body[first:last], DTYPES[entry["dtype"]]).reshape(entry["shape"])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            values = (values.astype("<u4") << 16).view("<f4")
        tensors[name] = values if values.dtype == np.uint8 else values.astype(np.float32)
    return metadata, tensors, digests


def unpack(packed: Array, bits: int, count: int) -> Array:
    """(n, bytes) -> (n, count): code i is the bits i * bits, … of a row, the lowest bit first."""
    stream = np.unpackbits(packed, axis=-1, bitorder="little")[:, : count * bits].reshape(len(packed), count, bits)
    return (stream.astype(np.int64) << np.arange(bits)).sum(-1)


def dense(config: Config, tensors: Tensors) -> Array:
    """The stored rows."""
    return tensors["rows"]


def scalar(config: Config, tensors: Tensors) -> Array:
    """Levels from -1 to 1, times scales."""
    bits, width = config["bits"], config["embedding_dim"]
    levels = unpack(tensors["codes"], bits, width).astype(np.float32) * np.float32(2 / (2**bits - 1)) - 1
    if config["scale_axis"] == "none":
        return levels
    scales = tensors["scales"]
    if config["scale_axis"] == "group":
        scales = np.repeat(scales, config["group_size"], axis=1)[:, :width]
    return levels * scales


def codebooks(config: Config, tensors: Tensors) -> Array:
    """Pieces side by side, each the sum of a word of each stage."""
    stages, segments, bits = config["stages"], config["segments"], config["bits"]
    words = table(config["words"], inside(tensors, "words"))
    codes = unpack(tensors["codes"], bits, stages * segments).reshape(-1, stages, segments)
    rows = []
    for segment in range(segments):
        books = [stage if config["shared"] else stage * segments + segment for stage in range(stages)]
        rows.append(sum(words[(book << bits) + codes[:, stage, segment]] for stage, book in enumerate(books)))
    return np.concatenate(rows, axis=1)


def kronecker(config: Config, tensors: Tensors) -> Array:
    """Row i is left[i // m] (x) right[i % m]."""
    left, right = (table(config[side], inside(tensors, side)) for side in ("left", "right"))
    return np.kron(left, right)[: config["num_embeddings"]]


def trellis(config: Config, tensors: Tensors) -> Array:
    """Words of the last bits at each step of a stream, whose end is joined to its beginning."""
    memory, runs = config["memory"], config["runs"]
    total = sum(columns // width * bits for columns, bits, width in runs)
    stream = unpack(tensors["codes"], 1, total)
    pieces, end = [], 0
    for (columns, bits, width), scale in zip(runs, tensors["scales"], strict=True):
        if not bits:
            pieces.append(np.zeros((len(stream), columns), np.float32))
            continue
        for _ in range(columns // width):
            end += bits
            window = stream[:, np.arange(end - memory, end) % total]
            states = (window << np.arange(memory)).sum(1)
            pieces.append(words(states, width) * scale)
    return np.concatenate(pieces, axis=1)


def words(states: Array, width: int) -> Array:
    """The values of states: the sum of the four bytes of a congruential generator's output, centred and scaled."""
    numbers = (states[:, None] * width + np.arange(width)) * 34038481 + 76625530 & 0xFFFFFFFF
    total = np.sum([numbers >> shift & 255 for shift in (0, 8, 16, 24)], axis=0)
    return (total - 510).astype(np.float32) / np.float32(147.8)


def projected(config: Config, tensors: Tensors) -> Array:
    """activation(inner @ basis + bias)."""
    inner, basis = (table(config[part], inside(tensors, part)) for part in ("inner", "basis"))
    rows = inner @ basis
    if config["bias"]:
        rows = rows + tensors["bias"]
    activations = {
        "relu": lambda x: np.maximum(x, 0),
        "tanh": np.tanh,
        "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
        None: lambda x: x,
    }
    return activations[config["activation"]](rows)


def parts(config: Config, tensors: Tensors, name: str) -> list[Array]:
    """The tables inside a form made of several."""
    return [table(part, inside(tensors, f"{name}.{number}")) for number, part in enumerate(config[name])]


def total(config: Config, tensors: Tensors) -> Array:
    """The sum of the parts."""
    return np.sum(parts(config, tensors, "parts"), axis=0)


def columns(config: Config, tensors: Tensors) -> Array:
    """Parts side by side, and zeros up to the width."""
    rows = np.concatenate(parts(config, tensors, "parts"), axis=1)
    return np.pad(rows, ((0, 0), (0, config["embedding_dim"] - rows.shape[1])))


def rows_of_blocks(config: Config, tensors: Tensors) -> Array:
    """A token's row is its rank among the tokens of its block."""
    blocks = parts(config, tensors, "blocks")
    joined = np.concatenate(blocks)
    if not config["mapped"]:
        return joined
    bits = max(1, (len(blocks) - 1).bit_length())
    block_of = unpack(tensors["block_of"][None], bits, len(joined))[0]
    result = np.empty_like(joined)
    for number, block in enumerate(blocks):
        result[block_of == number] = block
    return result


def tiles(config: Config, tensors: Tensors) -> Array:
    """Tiles from left to right, then from top to bottom, each a row of the table inside."""
    height, width, rows, columns = (config[side] for side in ("num_embeddings", "embedding_dim", "rows", "columns"))
    down, across = -(-height // rows), -(-width // columns)
    grid = table(config["inner"], inside(tensors, "inner")).reshape(down, across, rows, columns)
    return grid.transpose(0, 2, 1, 3).reshape(down * rows, across * columns)[:height, :width]


def rotated(config: Config, tensors: Tensors) -> Array:
    """U^T inner V."""
    inner, seed = table(config["inner"], inside(tensors, "inner")), config["seed"]
    return rotation(len(inner), seed, 0).T @ inner @ rotation(inner.shape[1], seed, 1)


def rotation(length: int, seed: int, stream: int) -> Array:
    """Signs, then Hadamard matrices over neighbouring entries, then a cosine transform over these blocks."""
    block = length & -length
    count = length // block
    hadamard = np.ones((1, 1))
    while len(hadamard) < block:
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    cosines = np.eye(count)
    if count <= 1024:
        row, column = np.arange(count)[:, None], np.arange(count)
        cosines = np.cos(np.pi * row * (2 * column + 1) / (2 * count)) * np.sqrt(np.where(row == 0, 1, 2) / count)
    numbers = hashed(np.arange(length) + hashed(np.array(2 * seed + stream)) & 0xFFFFFFFF)
    signs = 1 - 2 * (numbers & 1)
    return (np.kron(cosines, hadamard / np.sqrt(block)) * signs).astype(np.float32)


def hashed(number: Array) -> Array:
    """32 bits from 32 bits."""
    for _ in range(2):
        number = ((number >> 16) ^ number) * 0x45D9F3B & 0xFFFFFFFF
    return (number >> 16) ^ number


def scaled(config: Config, tensors: Tensors) -> Array:
    """Rows and columns times scales of their own."""
    entries = table(config["inner"], inside(tensors, "inner"))
    if config["rows"]:
        entries = entries * tensors["rows"][:, None]
    return entries * tensors["columns"] if config["columns"] else entries


FORMS: dict[str, Callable[[Config, Tensors], Array]] = {
    "dense": dense,
    "scalar": scalar,
    "codebooks": codebooks,
    "kronecker": kronecker,
    "trellis": trellis,
    "projected": projected,
    "sum": total,
    "columns": columns,
    "rows": rows_of_blocks,
    "tiles": tiles,
    "rotated": rotated,
    "scaled": scaled,
}


def inside(tensors: Tensors, name: str) -> Tensors:
    """The tensors of the inner form with this name, without the prefix."""
    return {key.removeprefix(f"{name}."): tensor for key, tensor in tensors.items() if key.startswith(f"{name}.")}


def table(config: Config, tensors: Tensors) -> Array:
    """The whole table that a form stores, float32, shape (V, d)."""
    return FORMS[config["form"]](config, tensors)


def names(config: Config) -> list[str]:
    """The names of the tensors of a form and of the forms inside it."""
    form = config["form"]
    own = {"dense": ["rows"], "scalar": ["codes"], "codebooks": ["codes"], "trellis": ["codes", "scales"]}.get(form, [])
    own = own + ["scales"] * (form == "scalar" and config["scale_axis"] != "none")
    own = own + ["bias"] * config.get("bias", False) + ["block_of"] * config.get("mapped", False)
    own = own + [side for side in ("rows", "columns") if form == "scaled" and config[side]]
    for field, value in config.items():
        if isinstance(value, dict):
            own = own + [f"{field}.{name}" for name in names(value)]
        elif field in ("parts", "blocks"):
            own = own + [f"{field}.{number}.{name}" for number, part in enumerate(value) for name in names(part)]
    return own


def of_module(module: str, config: Config, tensors: Tensors) -> Tensors:
    """The tensors of a module's table. One of them has the module's original key."""
    found = {}
    for name in names(config):
        full = [key for key in tensors if f".{key}".endswith(f".{module}.table.{name}")]
        full = full or [key for key in tensors if f".{key}".endswith(f".{module}.weight")]
        found[name] = tensors[full[0]]
    return found


def check(stored: Config, expected: Config, digests: dict[str, str]) -> None:
    """Compare the digests of the files with those that were saved.

    Raises:
        ValueError: If they differ.
    """
    layout = {"tables": stored["tables"], "linears": stored.get("linears", {}), "separate": stored.get("separate", [])}
    text = json.dumps(layout, sort_keys=True, separators=(",", ":"))
    if hashlib.sha256(text.encode()).hexdigest() != expected["config"]:
        raise ValueError("config.json does not belong to the tensors")
    saved = expected["tensors"][0]
    wrong = [name for name, digest in digests.items() if saved.get(name, "") not in (digest, None)]
    if wrong:
        raise ValueError(f"{wrong[0]} is not what was saved")


def read_folder(folder: Path) -> dict[str, Array]:
    """The compressed tables and linear maps of a checkpoint, by module name.

    Raises:
        ValueError: If it has another format, or was changed after it was saved.
    """
    stored = json.loads((folder / "config.json").read_text(encoding="utf-8"))["quantization_config"]
    if stored["quant_method"] != "vocabpress" or stored["format_version"] != 1:
        raise ValueError(f"{folder} is not a vocabpress checkpoint of format 1")
    metadata: dict[str, str] = {}
    tensors: Tensors = {}
    digests: dict[str, str] = {}
    for file in sorted(folder.glob("model*.safetensors")):
        metadata, own_tensors, own_digests = read_safetensors(file)
        tensors, digests = tensors | own_tensors, digests | own_digests
    if "vocabpress_sha256" in metadata:
        check(stored, json.loads(metadata["vocabpress_sha256"]), digests)
    modules = stored["tables"] | stored.get("linears", {})
    return {name: table(form, of_module(name, form, tensors)) for name, form in modules.items()}


if __name__ == "__main__":
    for name, rows in read_folder(Path(sys.argv[1])).items():
        print(f"{name}: {rows.shape[0]} x {rows.shape[1]}, first entries {rows[0, :4]}")
