"""A checkpoint with fewer tokens: the rows of the kept ones, their tokenizer, their numbers in the config."""

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from vocabpress.calibrate.counts import count_tokens
from vocabpress.hf.checkpoint import load_model, open_tokenizer
from vocabpress.hf.companions import copy_companions, module_folders
from vocabpress.hf.folders import find_folder, weight_bytes
from vocabpress.hf.original import Original, find_tables
from vocabpress.hf.page import read_page
from vocabpress.hf.report import hub_id, model_name, named_by
from vocabpress.hf.writing import check_output, save, written_at_once
from vocabpress.texts import read_lines, sources
from vocabpress.trim.card import TrimReport, write_card
from vocabpress.trim.pick import of_scripts
from vocabpress.trim.tokens import closure, pieces, renumbered

KEPT_IDS = "kept_ids.json"
# Other ways of writing the vocabulary, which would be that of the original.
VOCABULARIES = {"vocab.txt", "vocab.json", "merges.txt", "added_tokens.json", "tokenizer.model", "spiece.model"}
VOCABULARIES |= {"sentencepiece.bpe.model", "source.spm", "target.spm", "tokenizer.json", "tokenizer_config.json"}
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")  # what is not there need not be suppressed
TOKEN_KEYS = ("_token_id", "_token_ids", "_token_index", *SUPPRESSED)
CHECKED_LINES = 2000  # of the text, cut anew by the trimmed tokenizer


def trim(
    model: str | Path,
    output: str | Path,
    *,
    text: Sequence[str | Path] = (),
    scripts: Sequence[str] = (),
    min_count: int = 1,
    progress: bool = False,
) -> TrimReport:
    """Leave the tokens out that text of some languages does not need, and write a checkpoint that loads as before.

    A kept token's row stays as it is, so a text of kept tokens is read as by the original. The new ids are in the order
    of the old ones; ``kept_ids.json`` in the output lists the old id of each.

    Args:
        model: A hub id, or a folder with config.json and weights; not compressed.
        output: A folder that does not exist yet, or is empty. It appears when all is done, or not at all.
        text: UTF-8 text files; the tokens that occur in them are kept.
        scripts: Unicode scripts such as ``Latin``; tokens of these, and those of no script, are kept.
        min_count: How often a token has to occur in the text.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: With one line that says what was wrong and what to try; nothing was written then.
    """
    if not text and not scripts:
        raise ValueError("give text (--text FILE) or scripts (--script Latin) whose tokens are to be kept")
    if min_count < 1:
        raise ValueError(f"min_count is at least 1, got {min_count}")
    target, text, folder = check_output(output), sources(text), find_folder(model)
    module_folders(folder)
    page = read_page(folder)
    loaded, tokenizer = load_model(folder), open_tokenizer(folder)
    info = find_tables(loaded)[0]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{folder} has no fast tokenizer (tokenizer.json), which alone can be trimmed")
    data = json.loads(backend.to_str())
    counts = count_tokens(read_lines(text, progress), tokenizer, info.shape[0]) if text else None
    wanted = set() if counts is None else set((counts >= min_count).nonzero()[:, 0].tolist())
    wanted |= set(of_scripts(pieces(data), backend, scripts)) if scripts else set()
    every = {i for config in _configs(loaded) for key, ids in _entries(config) if key not in SUPPRESSED for i in ids}
    named = {index for index in every if 0 <= index < info.shape[0]}
    kept = closure(data, wanted | named)
    if kept[-1] >= info.shape[0]:
        raise ValueError(f"the tokenizer has id {kept[-1]}, the table {info.shape[0]} rows; do they match?")
    keep_rows(loaded, kept)
    smaller = renumbered(data, kept)
    with written_at_once(target) as temporary:
        save(loaded, temporary)
        _write_tokenizer(folder, temporary, smaller, kept)
        copy_companions(folder, temporary, without=VOCABULARIES)
        same = _same_lines(tokenizer, open_tokenizer(temporary), text, kept) if text else None
        report = TrimReport(
            source_name=named_by(page.text)[0] or model_name(model) if hub_id(model) is None else model_name(model),
            output=str(output),
            tokens_before=info.shape[0],
            tokens_after=len(kept),
            tokens_used=len(wanted),
            table_bytes_before=info.bytes,
            table_bytes_after=info.bytes // info.shape[0] * len(kept),
            model_bytes_before=weight_bytes(folder),
            model_bytes_after=weight_bytes(temporary),
            same_lines=same,
            kept_share=None if counts is None else float(counts[kept].double().sum() / counts.double().sum()),
        )
        write_card(report, temporary, type(loaded).__name__, page, hub_id(model) or named_by(page.text)[1])
    return report


@torch.no_grad()
def keep_rows(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Keep some rows of the table and of its head, in place, and give the tokens that the config names their new ids.

    Raises:
        ValueError: If the model holds something else with a number for each token.
    """
    table, head = Original.of(model).weight, model.get_output_embeddings()
    rows, places = len(table), torch.tensor(kept)
    found = (table, getattr(head, "weight", None), getattr(head, "bias", None))
    for parameter in {id(each): each for each in found if isinstance(each, nn.Parameter)}.values():  # tied ones once
        parameter[: len(kept)] = parameter[places]
    model.resize_token_embeddings(len(kept), mean_resizing=False)
    left = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if rows in tensor.shape]
    if left:
        raise ValueError(f"{left[0]} has a number for each token, too; such a model can't be trimmed yet")
    new = {old: index for index, old in enumerate(kept)}
    for config in _configs(model):
        for key, ids in _entries(config):
            there = [new.get(i, i) for i in ids if i in new or not 0 <= i < rows]  # some say -1 for none
            setattr(config, key, there if isinstance(getattr(config, key), list) else there[0])


def _configs(model: PreTrainedModel) -> list[Any]:
    """The configs that may name tokens: the model's, those inside it, and how it generates."""
    found = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    found += [model.config.get_text_config(decoder=True), getattr(model, "generation_config", None)]
    return list({id(config): config for config in found if config is not None}.values())


def _entries(config: Any) -> list[tuple[str, list[int]]]:
    """The attributes of a config that name tokens, each with its numbers."""
    named = [(key, value) for key, value in vars(config).items() if key.endswith(TOKEN_KEYS)]
    lists = [(key, value if isinstance(value, list) else [value]) for key, value in named]
    return [(key, ids) for key, ids in lists if all(isinstance(index, int) for index in ids)]


def _write_tokenizer(source: Path, target: Path, data: dict[str, Any], kept: Sequence[int]) -> None:
    """tokenizer.json, the settings beside it with the new ids, and the list of the old ones."""
    new = {old: index for index, old in enumerate(kept)}
    (target / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    (target / KEPT_IDS).write_text(json.dumps(list(kept)), encoding="utf-8")
    file = source / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if "added_tokens_decoder" in settings:
        old = settings["added_tokens_decoder"].items()
        settings["added_tokens_decoder"] = {str(new[int(i)]): token for i, token in old if int(i) in new}
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _same_lines(before: Any, after: Any, text: Sequence[str | Path], kept: Sequence[int]) -> float:
    """Share of the first lines that are cut into the same tokens."""
    lines = list(islice(read_lines(text), CHECKED_LINES))
    one, two = (tokenizer(lines, add_special_tokens=False)["input_ids"] for tokenizer in (before, after))
    same = sum(old == [kept[i] for i in new] for old, new in zip(one, two, strict=True))
    return same / len(lines)
