"""Forms that are described by their constructor's arguments: one list of fields writes, checks and reads a config."""

from typing import Any, Self

import torch

from vocabpress.embeddings.base import Build, CompressedEmbedding

ATTRIBUTES = {"dtype": "stored_dtype", "mapped": "block_of"}  # that have another name than the argument


class Configured(CompressedEmbedding):
    """A form whose `fields` are its constructor's arguments, in the order in which they are written."""

    stored_dtype = torch.float32  # of a form that has no continuous tensor of its own, and does not use it

    def config(self) -> dict[str, Any]:
        values = {name: getattr(self, ATTRIBUTES.get(name, name)) for name in self.fields}
        return {"form": type(self).__name__.lower()} | {
            name: self.fields[name].write(value) for name, value in values.items()
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], build: Build) -> Self:
        return cls(**{name: field.read(config[name], build) for name, field in cls.fields.items()})
