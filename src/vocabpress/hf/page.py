"""Pages of models, README.md with metadata before the text: read whatever is in them, and written."""

import json
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
import yaml
from transformers.models.auto import modeling_auto

METADATA = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
KEPT = ("language", "license", "license_name", "license_link", "pipeline_tag", "datasets", "library_name")
ORIGINAL = "# The original's model card"  # what stands below it is the original's own text
AUTO = {
    "AutoModelForCausalLM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForSeq2SeqLM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "AutoModelForMaskedLM": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    "AutoModelForSequenceClassification": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "AutoModelForTokenClassification": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
    "AutoModel": modeling_auto.MODEL_MAPPING_NAMES,
}
GENERATES = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")


@dataclass(frozen=True)
class Page:
    """A model's page.

    Attributes:
        metadata: Of its head, as YAML has it; empty where that can't be read.
        text: All below.
    """

    metadata: dict[str, Any] = field(default_factory=dict)
    text: str = ""


def read_page(folder: Path) -> Page:
    """README.md of a folder. What can't be read of it is a warning: no page is worth an error."""
    file = folder / "README.md"
    try:
        whole = file.read_text(encoding="utf-8") if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        warnings.warn(f"the model card {file} can't be read and is left out: {error}", stacklevel=2)
        return Page()
    head = METADATA.match(whole)
    if head is None:
        return Page(text=whole.strip())
    text = whole[head.end() :].strip()
    try:
        metadata = yaml.safe_load(head[1])
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        warnings.warn(f"the metadata of the model card {file} can't be read and is left out: {reason}", stacklevel=2)
        return Page(text=text)
    return Page(metadata if isinstance(metadata, dict) else {}, text)


def metadata(original: Page, base_model: str | None, relation: str, tags: list[str]) -> str:
    """The head of a page of what was made of a model, as YAML: what holds on, where it comes from, and tags.

    Args:
        original: Page of the original, or of what was made of it before.
        base_model: Its id on the hub, where it is known.
        relation: To the base model, in the hub's words.
        tags: To be added; the hub takes text alone for one.
    """
    old = original.metadata
    told: dict[str, Any] = {key: old[key] for key in KEPT if old.get(key) is not None}
    if base_model is not None:
        told |= {"base_model": base_model, "base_model_relation": relation}
    before = old.get("tags")
    listed = before if isinstance(before, list) else [before] if before is not None else []
    told["tags"] = sorted({*(str(tag) for tag in listed), *tags})
    return f"---\n{yaml.safe_dump(told, sort_keys=False, allow_unicode=True).strip()}\n---\n"


def original_text(page: Page, own: bool = False) -> str:
    """The original's own text, to stand below ours; empty where there is none.

    Args:
        page: Of the original, or, if it is our own, what may have the original's text in it.
        own: Whether it is our own.
    """
    if not own:
        return page.text
    _, found, text = page.text.partition(f"\n{ORIGINAL}\n")
    return text.strip() if found else ""


def below(text: str) -> str:
    """The original's text under its title; empty where there is none."""
    return f"\n---\n\n{ORIGINAL}\n\n{text}\n" if text else ""


def auto_class(architecture: str) -> str:
    """The auto class of transformers that loads a class of models."""
    for name, known in AUTO.items():
        classes = (one for value in known.values() for one in (value if isinstance(value, tuple | list) else [value]))
        if architecture in classes:
            return name
    return "AutoModel"


def snippet(folder: Path, architecture: str, output: str, first: str = "") -> str:
    """Python that loads a checkpoint and runs it.

    Args:
        folder: Of the checkpoint, or of one with the same companions.
        architecture: Class of the model.
        output: What is loaded: the folder's name.
        first: Lines before.
    """
    place = json.dumps(output)
    if (folder / "modules.json").is_file():
        return f"""{first}from sentence_transformers import SentenceTransformer

model = SentenceTransformer({place})
embeddings = model.encode(["It is sunny today.", "The weather is fine."])
print(model.similarity(embeddings, embeddings))"""
    loader = auto_class(architecture)
    trust = "" if hasattr(transformers, architecture) else ", trust_remote_code=True"
    lines = [f"model = {loader}.from_pretrained({place}{trust})"]
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json")):
        return "\n".join([f"{first}from transformers import {loader}", "", *lines])
    names = ", ".join(sorted((loader, "AutoTokenizer"), key=lambda name: (name != loader, name)))
    lines.insert(0, f"tokenizer = AutoTokenizer.from_pretrained({place})")
    return "\n".join([f"{first}from transformers import {names}", "", *lines, *_use(folder, loader)])


def _use(folder: Path, loader: str) -> list[str]:
    """What is done with a model and its tokenizer."""
    if loader == "AutoModelForCausalLM" and _chats(folder):
        return [
            'messages = [{"role": "user", "content": "What is the capital of France?"}]',
            "inputs = tokenizer.apply_chat_template(",
            '    messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"',
            ")",
            "answer = model.generate(**inputs, max_new_tokens=30)",
            "print(tokenizer.decode(answer[0], skip_special_tokens=True))",
        ]
    inputs = 'inputs = tokenizer("The capital of France is", return_tensors="pt", return_token_type_ids=False)'
    if loader in GENERATES:
        return [inputs, "answer = model.generate(**inputs, max_new_tokens=30)", "print(tokenizer.decode(answer[0]))"]
    return [inputs, "print(model(**inputs))"]


def _chats(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file():
        return True
    try:
        return "chat_template" in json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
