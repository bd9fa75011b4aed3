"""Ways to damage a checkpoint, or to forge one. Each takes files and a random generator, and changes the files."""

import copy
import hashlib
import json
from typing import ClassVar

import numpy as np

WEIGHTS, CONFIG, INDEX = "model.safetensors", "config.json", "model.safetensors.index.json"
VALUES = (
    None, True, False, -1, 0, 1, 2, 3, 7, 8, 9, 16, 17, 52, 54, 2**31, 2**40, 2**63, 2**70, 10**30, 1.5, float("nan"),
    "", "x", "none", "row", "group", "tanh", "elu", "float32", "bfloat16", "../../etc/passwd", [], {}, [[]], [1, 2, 3],
    [[1, 1, 1]], [[12, 8, 12]], [[2**24, 0, 1]], [[12, 1, 2**20]], {"form": "dense"}, {"form": ["dense"]},
    {"form": "exec"},
)  # fmt: skip
NAMES = (
    "", ".", "..", "../../x", "/etc/passwd", "bert", "cls", "embeddings", "embeddings.LayerNorm", "a b", "x" * 5000,
    "é", "embeddings.position_embeddings", "(a+)+$", "__class__", "encoder.layer.0.attention.self.query", "a\n",
)  # fmt: skip
DTYPES = ("F32", "F16", "BF16", "U8", "I8", "I64", "BOOL", "F64", "F8_E4M3", "F4", "F99", 3, None)
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings", "type_vocab_size")


def split(content):
    """Header and body of a safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(header, body):
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


class Files(dict):
    """Name -> bytes of a checkpoint; ``forged`` where the digests were made to fit."""

    forged: ClassVar[bool] = False

    def weights(self):
        return sorted(name for name in self if name.endswith(".safetensors"))

    def config(self):
        return json.loads(self[CONFIG])

    def put_config(self, config):
        self[CONFIG] = json.dumps(config).encode()

    def sign(self):
        """Digests that fit what is there now: a file made by someone who means it."""
        stored = self.config()["quantization_config"]
        layout = {key: stored.get(key) or empty for key, empty in (("tables", {}), ("linears", {}), ("separate", []))}
        said = hashlib.sha256(json.dumps(layout, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        found = {}
        for name in self.weights():
            header, body = split(self[name])
            header.pop("__metadata__", None)
            for key, entry in header.items():
                found[key] = hashlib.sha256(body[slice(*entry["data_offsets"])]).hexdigest()
        for name in self.weights():
            header, body = split(self[name])
            header.setdefault("__metadata__", {})["vocabpress_sha256"] = json.dumps(
                {"config": said, "tensors": [found]}
            )
            self[name] = join(header, body)
        self.forged = True


def pick(draw, choices):
    return choices[int(draw.integers(len(choices)))]


def flip(files, draw):
    """A few bits anywhere in the weights."""
    name = pick(draw, files.weights())
    content = bytearray(files[name])
    for _ in range(int(draw.integers(1, 9))):
        content[int(draw.integers(len(content)))] ^= 1 << int(draw.integers(8))
    files[name] = bytes(content)


def flip_header(files, draw):
    name = pick(draw, files.weights())
    content = bytearray(files[name])
    content[int(draw.integers(8 + int.from_bytes(content[:8], "little")))] ^= 1 << int(draw.integers(8))
    files[name] = bytes(content)


def flip_config(files, draw):
    """A bit of what config.json says of us."""
    content = bytearray(files[CONFIG])
    first = content.index(b'"quantization_config"')
    last = content.index(b'"tie_word' if b'"tie_word' in content[first:] else b"}", first)
    content[int(draw.integers(first, max(last, first + 200)))] ^= 1 << int(draw.integers(7))
    files[CONFIG] = bytes(content)


def truncate(files, draw):
    name = pick(draw, [*files.weights(), CONFIG])
    files[name] = files[name][: int(draw.integers(len(files[name])))]


def extend(files, draw):
    name = pick(draw, files.weights())
    files[name] += bytes(draw.integers(0, 256, int(draw.integers(1, 100)), dtype=np.uint8))


def blank(files, draw):
    """A stretch of zeros, as a lost block of a disk leaves."""
    name = pick(draw, files.weights())
    start = int(draw.integers(len(files[name])))
    content = files[name]
    files[name] = content[:start] + bytes(min(512, len(content) - start)) + content[start + 512 :]


def lie_about_the_header(files, draw):
    name = pick(draw, files.weights())
    length = pick(draw, (0, 1, 7, 2**20, 2**31, 2**40, 2**63, 2**64 - 1))
    files[name] = length.to_bytes(8, "little") + files[name][8:]


def edit_header(files, draw):
    """Another dtype, shape or place of a tensor."""
    name = pick(draw, files.weights())
    header, body = split(files[name])
    entry = header[pick(draw, sorted(header.keys() - {"__metadata__"}))]
    field = pick(draw, ("dtype", "shape", "data_offsets"))
    if field == "dtype":
        entry["dtype"] = pick(draw, DTYPES)
    elif field == "shape":
        shapes = (entry["shape"][::-1], [], [1, *entry["shape"]], [2**40, 2**40], [2**62], [-1], [53, 12], "x")
        entry["shape"] = pick(draw, shapes)
    else:
        first, last = entry["data_offsets"]
        entry["data_offsets"] = pick(
            draw, ([first + 1, last + 1], [0, 2**62], [last, first], [first], [-1, last], [0, 8])
        )
    files[name] = join(header, body)


def swap(files, draw):
    """Two tensors of one size change places."""
    name = pick(draw, files.weights())
    header, body = split(files[name])
    keys = sorted(header.keys() - {"__metadata__"})
    one = pick(draw, keys)
    alike = [key for key in keys if key != one and header[key]["shape"] == header[one]["shape"]]
    other = pick(draw, alike or keys)
    header[one], header[other] = header[other], header[one]
    files[name] = join(header, body)


def rename(files, draw):
    name = pick(draw, files.weights())
    header, body = split(files[name])
    key = pick(draw, sorted(header.keys() - {"__metadata__"}))
    header[
        pick(draw, (f"x.{key}", key.removeprefix("bert."), f"{key}.x", "bert.embeddings.word_embeddings.weight"))
    ] = header.pop(key)
    files[name] = join(header, body)


def drop(files, draw):
    """A tensor is gone, the others close up."""
    name = pick(draw, files.weights())
    header, body = split(files[name])
    metadata = header.pop("__metadata__", {})
    gone = pick(draw, sorted(header))
    fresh, pieces, end = {"__metadata__": metadata}, [], 0
    for key, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if key != gone:
            piece = body[slice(*entry["data_offsets"])]
            fresh[key] = {**entry, "data_offsets": [end, end + len(piece)]}
            end += len(piece)
            pieces.append(piece)
    files[name] = join(fresh, b"".join(pieces))


def edit_metadata(files, draw):
    """Other digests, or digests that are none; without any, nothing is checked, and nothing else was changed."""
    name = pick(draw, files.weights())
    header, body = split(files[name])
    told = header["__metadata__"].get("vocabpress_sha256", "{}")
    header["__metadata__"]["vocabpress_sha256"] = pick(
        draw, ("", "{}", "[]", "null", told[:-1], told.replace("a", "b"), "[" * 5000, '{"config": 1, "tensors": [1]}')
    )
    files[name] = join(header, body)


def poison(files, draw):
    """NaN or infinity among the numbers of a table, the digests made to fit."""
    name = pick(draw, files.weights())
    header, body = split(files[name])
    kinds = {"F32": (4, b"\x00\x00\xc0\x7f"), "F16": (2, b"\x00\x7c"), "BF16": (2, b"\xc0\x7f")}
    keys = [key for key, entry in header.items() if "word_embeddings" in key and entry["dtype"] in kinds]
    if keys:
        entry = header[pick(draw, sorted(keys))]
        size, value = kinds[entry["dtype"]]
        first, last = entry["data_offsets"]
        place = first + size * int(draw.integers((last - first) // size))
        files[name] = join(header, body[:place] + value + body[place + size :])
        files.sign()


def scramble(files, draw):
    """Other codes, the digests made to fit: another model, and still one that reads no word that is not there."""
    name = pick(draw, files.weights())
    header, body = split(files[name])
    keys = [key for key, entry in header.items() if "word_embeddings" in key and entry["dtype"] == "U8"]
    if keys:
        first, last = header[pick(draw, sorted(keys))]["data_offsets"]
        files[name] = join(header, body[:first] + draw.integers(0, 256, last - first, np.uint8).tobytes() + body[last:])
        files.sign()


def places(config):
    """Each (dict, key) of a nested config, those in lists too."""
    found = []
    for key, value in config.items() if isinstance(config, dict) else ():
        found.append((config, key))
        for part in value if isinstance(value, list) else [value]:
            found += places(part)
    return found


def edit_form(files, draw):
    """Another value somewhere in the config of a table."""
    config = files.config()
    tables = config["quantization_config"]["tables"]
    where, key = pick(draw, places(tables))
    where[key] = copy.deepcopy(pick(draw, VALUES))
    files.put_config(config)


def edit_fields(files, draw):
    """A field more or less, or a part more or less."""
    config = files.config()
    where, key = pick(draw, places(config["quantization_config"]["tables"]))
    if isinstance(where[key], list) and where[key] and draw.integers(2):
        where[key] = [*where[key], where[key][0]] if draw.integers(2) else where[key][::-1]
    elif draw.integers(2):
        del where[key]
    else:
        where[pick(draw, ("x", "form", "__class__", "code", "path"))] = pick(draw, VALUES)
    files.put_config(config)


def nest(files, draw):
    """Forms in forms in forms."""
    config = files.config()
    tables = config["quantization_config"]["tables"]
    for name in tables:
        for _ in range(int(draw.integers(10, 60))):
            tables[name] = {"form": "sum", "parts": [tables[name]]}
    files.put_config(config)


def claim(files, draw):
    """A form, or the model around it, far larger than the file."""
    config = files.config()
    config[pick(draw, SIZES)] = pick(draw, (2**20, 2**31, 2**36, 2**45))
    if draw.integers(2):
        rows, width = config["vocab_size"], config["hidden_size"]
        square = {"form": "dense", "num_embeddings": 2**15, "embedding_dim": 2**11, "dtype": "float16"}
        huge = {"form": "dense", "num_embeddings": rows, "embedding_dim": width, "dtype": "float32"}
        product = {"form": "kronecker", "left": square, "right": square, "num_embeddings": 2**30}
        one = {"form": "dense", "num_embeddings": 1, "embedding_dim": 2**24, "dtype": "float16"}
        tile = {"form": "tiles", "inner": one, "num_embeddings": 1, "embedding_dim": 1, "rows": 2**12, "columns": 2**12}
        turned = {"form": "rotated", "inner": product, "seed": 0}
        form = pick(draw, (huge, {"form": "rows", "blocks": [huge] * 300, "mapped": True}, product, tile, turned))
        config["quantization_config"]["tables"] = {"embeddings.word_embeddings": form}
    files.put_config(config)


def edit_layout(files, draw):
    """Another name of a table, another value beside the tables."""
    config = files.config()
    stored = config["quantization_config"]
    field = pick(
        draw, ("tables", "linears", "separate", "format_version", "verify", "method", "inner", "fitted_by", "x")
    )
    if field == "tables" and draw.integers(4):
        tables = stored["tables"]
        tables[pick(draw, NAMES)] = tables[next(iter(tables))] if draw.integers(2) else tables.pop(next(iter(tables)))
    elif field == "linears" and draw.integers(4):
        stored["linears"] = {pick(draw, NAMES): next(iter(stored["tables"].values()))}
    elif field == "separate" and draw.integers(4):
        stored["separate"] = [pick(draw, NAMES)]
    else:
        stored[field] = copy.deepcopy(pick(draw, VALUES))
    files.put_config(config)


def forged_form(files, draw):
    """Another config, the digests made to fit."""
    pick(draw, (edit_form, edit_fields, edit_layout, nest, claim))(files, draw)
    files.sign()


def unverified(files, draw):
    """A file that says not to look at its digests, and is damaged."""
    config = files.config()
    config["quantization_config"]["verify"] = False
    files.put_config(config)
    flip(files, draw)


def lead_astray(files, draw):
    """Paths that lead out of the folder, in an index or in the config."""
    outside = pick(
        draw, ("../outside.safetensors", "/etc/passwd", "../../x.bin", "a/../../outside.safetensors", "x.bin", "")
    )
    if draw.integers(2) or INDEX in files:
        header, _ = split(files[files.weights()[0]])
        keys = header.keys() - {"__metadata__"}
        files[INDEX] = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(keys, outside)}).encode()
        for name in files.weights():
            del files[name]
    else:
        config = files.config()
        config["transformers_weights"] = outside
        files.put_config(config)


MUTATIONS = (
    flip, flip, flip, flip_header, flip_config, truncate, extend, blank, lie_about_the_header, edit_header, edit_header,
    swap, rename, drop, edit_metadata, poison, scramble, edit_form, edit_form, edit_fields, nest, claim, edit_layout,
    forged_form, forged_form, unverified, lead_astray,
)  # fmt: skip
