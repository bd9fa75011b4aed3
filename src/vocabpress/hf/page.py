"""Read and write the pages of models: README.md, YAML metadata followed by text."""

import json
import re
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import transformers
import yaml
from transformers.models.auto import modeling_auto

METADATA = re.compile(r"\A---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
NAME_AS_TITLE = re.compile(r"\A\s*#\s+([\w.-]*[-_.\d][\w.-]*)\s*$", re.MULTILINE)  # a name, not a sentence
COPIED_FIELDS = ("language", "license", "license_name", "license_link", "pipeline_tag", "datasets", "library_name")
ORIGINAL_HEADING = "# The original's model card"  # the text below it is the original's
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
    """A model's page."""

    metadata: dict[str, Any] = field(default_factory=dict)  # empty if there is none or it can't be read
    text: str = ""  # below the metadata


def read_page(folder: Path) -> Page:
    """README.md of a folder. What can't be read causes a warning, not an error, because no model depends on it."""
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


def named_by(page: str) -> tuple[str | None, str | None]:
    """The name of a model in the title of its own page, and its hub id, if the page has them.

    As in ``# some-name`` with ``Model.from_pretrained("some-org/some-name")`` below.
    """
    title = NAME_AS_TITLE.search(page)
    if title is None:
        return None, None
    known = re.search(rf"[\"'`/]([\w.-]+/{re.escape(title[1])})[\"'`)\s]", page)
    return title[1], known[1] if known is not None else None


def metadata(original: Page, base_model: str | None, relation: str, tags: list[str]) -> str:
    """YAML metadata for a model made from another: the fields that still hold, the base model, and further tags.

    The ``relation`` to the base model is in the hub's terms. All tags become text, because it accepts nothing else.
    """
    old = original.metadata
    fields: dict[str, Any] = {key: old[key] for key in COPIED_FIELDS if old.get(key) is not None}
    if base_model is not None:
        fields |= {"base_model": base_model, "base_model_relation": relation}
    before = old.get("tags")
    old_tags = before if isinstance(before, list) else [before] if before is not None else []
    fields["tags"] = sorted({*(str(tag) for tag in old_tags), *tags})
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True).strip()}\n---\n"


def write_page(folder: Path, render: Callable[[], str]) -> None:
    """Write README.md. Errors become warnings, because the checkpoint is complete by then."""
    try:
        (folder / "README.md").write_text(render(), encoding="utf-8")
    except Exception as error:
        warnings.warn(f"the model card was not written: {error}", stacklevel=3)


def link(base_model: str | None) -> str:
    """A link to the original on the hub, if its id is known."""
    return f"[{base_model}](https://huggingface.co/{base_model})" if base_model else "the original"


def size_table(corner: str, before: str, rows: Iterable[tuple[str, int, int]]) -> str:
    """A Markdown table of sizes before and after; rows are (name, before, after)."""
    lines = [f"| {corner} | {before} | here | times smaller |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {name} | {old:,} | {new:,} | {old / new:.2f} |" for name, old, new in rows]
    return "\n".join(lines)


def original_text(page: Page, own: bool = False) -> str:
    """The original's text, to put below ours, from its page or, if that is our ``own``, from the end of it."""
    if not own:
        return page.text
    _, found, text = page.text.partition(f"\n{ORIGINAL_HEADING}\n")
    return text.strip() if found else ""


def below(text: str) -> str:
    """The original's text under its heading; empty if there is none."""
    return f"\n---\n\n{ORIGINAL_HEADING}\n\n{text}\n" if text else ""


def auto_class(architecture: str) -> str:
    """The auto class of transformers that loads a model class."""
    for name, known in AUTO.items():
        classes = (one for value in known.values() for one in (value if isinstance(value, tuple | list) else [value]))
        if architecture in classes:
            return name
    return "AutoModel"


def snippet(folder: Path, architecture: str, output: str, first: str = "") -> str:
    """Python code that loads a checkpoint from ``output`` and runs it, after the lines ``first``.

    Its companions are those in ``folder``.
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
