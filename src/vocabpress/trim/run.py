"""Write a checkpoint with fewer tokens: table, heads, tokenizer, and the token ids in the config."""

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
from vocabpress.hf.compact import TOKENIZER
from vocabpress.hf.companions import VOCABULARIES, copy_companions, module_folders
from vocabpress.hf.folders import find_folder, weight_bytes
from vocabpress.hf.original import Original, find_tables
from vocabpress.hf.page import named_by, read_page, write_page
from vocabpress.hf.writing import check_output, save, written_at_once
from vocabpress.hub import hub_id, model_name
from vocabpress.texts import read_lines, sources
from vocabpress.trim.card import TrimReport, trim_card
from vocabpress.trim.tokens import closure, of_scripts, pieces, renumbered

KEPT_IDS = "kept_ids.json"
NOT_COPIED = VOCABULARIES | {"added_tokens.json"}  # they have the original's tokens
SUPPRESSED = ("suppress_tokens", "begin_suppress_tokens")  # tokens that are needed only to be suppressed
TOKEN_KEYS = ("_token_id", "_token_ids", "_token_index", *SUPPRESSED)
CHECKED_LINES = 2000  # of the text, on which the two tokenizers are compared


def trim(
    model: str | Path,
    output: str | Path,
    *,
    text: Sequence[str | Path] = (),
    scripts: Sequence[str] = (),
    min_count: int = 1,
    progress: bool = False,
) -> TrimReport:
    """Remove the tokens that texts in some languages do not need, and write an ordinary checkpoint.

    The rows of the other tokens are unchanged, so the model treats a text of these tokens as before. Ids are renumbered
    in the same order; ``kept_ids.json`` in the output lists the original id of each.

    Args:
        model: A hub id, or a folder with config.json and weights; not compressed.
        output: A new or empty folder. It appears when it is complete.
        text: UTF-8 text files; the tokens that occur in them are selected.
        scripts: Unicode scripts such as ``Latin``; their tokens are selected, and those that belong to no script.
        min_count: How often a token must occur in the text to be selected.
        progress: Whether to draw progress bars on stderr.

    Raises:
        ValueError: If an argument is invalid or the model can't be trimmed. Nothing is written then.
    """
    if not text and not scripts:
        raise ValueError("nothing selects the tokens to keep; give text (--text FILE) or scripts (--script Latin)")
    if min_count < 1:
        raise ValueError(f"min_count must be at least 1, got {min_count}")
    target, text, folder = check_output(output), sources(text), find_folder(model)
    module_folders(folder)
    page = read_page(folder)
    loaded, tokenizer = load_model(folder), open_tokenizer(folder)
    info = find_tables(loaded)[0]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(f"{folder} has no fast tokenizer (tokenizer.json); save its tokenizer as a fast one first")
    data = json.loads(backend.to_str())
    counts = count_tokens(read_lines(text, progress), tokenizer, info.shape[0]) if text else None
    selected = set() if counts is None else set((counts >= min_count).nonzero()[:, 0].tolist())
    selected |= of_scripts(pieces(data), backend, scripts) if scripts else set()
    entries = [entry for config in _configs(loaded) for entry in _entries(config)]
    in_configs = {index for key, ids in entries if key not in SUPPRESSED for index in ids}
    ids = closure(data, selected | {index for index in in_configs if 0 <= index < info.shape[0]})
    if ids[-1] >= info.shape[0]:
        raise ValueError(f"the tokenizer has id {ids[-1]}, but the table has {info.shape[0]} rows; do they match?")
    keep_rows(loaded, ids)
    smaller = renumbered(data, ids)
    with written_at_once(target) as temporary:
        save(loaded, temporary)
        _write_tokenizer(folder, temporary, smaller, ids)
        copy_companions(folder, temporary, without=NOT_COPIED)
        same = _same_lines(tokenizer, open_tokenizer(temporary), text, ids) if text else None
        report = TrimReport(
            source_name=named_by(page.text)[0] or model_name(model) if hub_id(model) is None else model_name(model),
            output=str(output),
            tokens_before=info.shape[0],
            tokens_after=len(ids),
            tokens_used=len(selected),
            table_bytes_before=info.bytes,
            table_bytes_after=info.bytes // info.shape[0] * len(ids),
            model_bytes_before=weight_bytes(folder),
            model_bytes_after=weight_bytes(temporary),
            same_lines=same,
            kept_share=None if counts is None else float(counts[ids].double().sum() / counts.double().sum()),
        )
        base_model = hub_id(model) or named_by(page.text)[1]
        write_page(temporary, lambda: trim_card(report, temporary, type(loaded).__name__, page, base_model))
    return report


@torch.no_grad()
def keep_rows(model: PreTrainedModel, ids: Sequence[int]) -> None:
    """Remove the other rows from the table and its head, in place, and renumber the tokens in the configs.

    Raises:
        ValueError: If another tensor of the model has an entry for each token.
    """
    table, head = Original.of(model).weight, model.get_output_embeddings()
    rows, places = len(table), torch.tensor(ids)
    found = (table, getattr(head, "weight", None), getattr(head, "bias", None))
    for parameter in {id(each): each for each in found if isinstance(each, nn.Parameter)}.values():  # tied ones once
        parameter[: len(ids)] = parameter[places]
    model.resize_token_embeddings(len(ids), mean_resizing=False)
    others = [name for name, tensor in (*model.named_parameters(), *model.named_buffers()) if rows in tensor.shape]
    if others:
        raise ValueError(f"{others[0]} has an entry for each token, too; such a model can't be trimmed yet")
    new = {old: index for index, old in enumerate(ids)}
    for config in _configs(model):
        for key, tokens in _entries(config):
            renamed = [new.get(i, i) for i in tokens if i in new or not 0 <= i < rows]  # -1 means none in some configs
            setattr(config, key, renamed if isinstance(getattr(config, key), list) else renamed[0])


def _configs(model: PreTrainedModel) -> list[Any]:
    """The configs that may contain token ids: the model's, those of models inside it, and the generation config."""
    found = [module.config for module in model.modules() if isinstance(module, PreTrainedModel)]
    found += [model.config.get_text_config(decoder=True), getattr(model, "generation_config", None)]
    return list({id(config): config for config in found if config is not None}.values())


def _entries(config: Any) -> list[tuple[str, list[int]]]:
    """The attributes of a config that contain token ids, and the ids."""
    named = [(key, value) for key, value in vars(config).items() if key.endswith(TOKEN_KEYS)]
    lists = [(key, value if isinstance(value, list) else [value]) for key, value in named]
    return [(key, ids) for key, ids in lists if all(isinstance(index, int) for index in ids)]


def _write_tokenizer(source: Path, target: Path, data: dict[str, Any], ids: Sequence[int]) -> None:
    """Write tokenizer.json, its settings with the new ids, and the list of the original ids."""
    new = {old: index for index, old in enumerate(ids)}
    compact = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    (target / TOKENIZER).write_text(compact, encoding="utf-8")
    (target / KEPT_IDS).write_text(json.dumps(list(ids)), encoding="utf-8")
    file = source / "tokenizer_config.json"
    settings = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if "added_tokens_decoder" in settings:
        old = settings["added_tokens_decoder"].items()
        settings["added_tokens_decoder"] = {str(new[int(i)]): token for i, token in old if int(i) in new}
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _same_lines(before: Any, after: Any, text: Sequence[str | Path], ids: Sequence[int]) -> float:
    """Fraction of the first lines that both tokenizers split into the same tokens."""
    lines = list(islice(read_lines(text), CHECKED_LINES))
    one, two = (tokenizer(lines, add_special_tokens=False)["input_ids"] for tokenizer in (before, after))
    same = sum(old == [ids[i] for i in new] for old, new in zip(one, two, strict=True))
    return same / len(lines)
