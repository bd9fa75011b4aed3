"""Tiny configs: the default config of a class with its sizes reduced, by their usual names."""

import copy
import itertools
from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

from conformance.overrides import OVERRIDES, ROPE_SECTIONS

VOCAB = 211
"""Rows of the text table: a prime, so that no other size of a model equals it."""
FIRST_SPECIAL, HIDDEN, HEADS, HEAD_DIM, LAYERS, INNER = 170, 32, 2, 16, 2, 48
"""Ids from 170 on are special tokens for images, sounds and so on; text has smaller ids."""

SIZES: dict[str, int] = {
    **dict.fromkeys(("vocab_size", "text_vocab_size", "src_vocab_size", "tgt_vocab_size"), VOCAB),
    **dict.fromkeys(
        (
            "hidden_size", "d_model", "n_embd", "dim", "embed_dim", "emb_dim", "embedding_size", "embedding_dim",
            "word_embed_proj_dim", "projection_dim", "out_hidden_size", "text_hidden_size", "encoder_hidden_size",
            "decoder_hidden_size", "output_dim", "vision_output_dim", "image_text_hidden_size", "hidden_dim",
            "cross_hidden_size", "text_embed_dim", "backbone_hidden_size", "project_dim", "projection_size",
            "output_hidden_size", "adapter_out_dim", "word_vec_dim", "vision_dim", "d_embed", "projector_hidden_size",
        ),
        HIDDEN,
    ),
    **dict.fromkeys(
        (
            "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads", "attention_heads",
            "decoder_attention_heads", "num_key_value_heads", "num_kv_heads", "swa_num_attention_heads",
            "swa_num_key_value_heads", "cross_num_attention_heads", "cross_num_key_value_heads",
            "num_encoder_attention_heads", "num_decoder_attention_heads", "mamba_n_groups", "linear_num_key_heads",
            "linear_num_value_heads", "linear_num_heads", "index_n_heads", "decoder_num_attention_heads",
            "decoder_num_key_value_heads", "encoder_num_attention_heads", "encoder_num_key_value_heads",
            "num_global_key_value_heads", "resampler_heads", "resampler_n_heads", "num_query_attention_heads",
            "decoder_self_attention_heads", "speech_encoder_attention_heads", "t2u_encoder_attention_heads",
            "t2u_decoder_attention_heads",
        ),
        HEADS,
    ),
    **dict.fromkeys(
        (
            "head_dim", "d_kv", "swa_head_dim", "cross_head_dim", "kv_channels", "attention_head_dim", "v_head_dim",
            "qk_nope_head_dim", "linear_key_head_dim", "linear_value_head_dim", "kv_lora_rank", "q_lora_rank",
            "index_head_dim", "qk_head_dim", "global_head_dim", "resampler_head_dim", "d_head", "o_lora_rank",
            "resampler_dim_head", "linear_head_dim",
        ),
        HEAD_DIM,
    ),
    "qk_rope_head_dim": HEAD_DIM,
    "rotary_dim": 8,
    "upsample_groups": 2,
    **dict.fromkeys(
        (
            "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "depth",
            "layers", "num_decoder_layers", "num_encoder_layers", "encoder_num_hidden_layers",
            "decoder_num_hidden_layers", "speech_encoder_layers", "t2u_encoder_layers", "t2u_decoder_layers",
            "num_blocks", "qformer_num_hidden_layers", "aligner_num_add_layers", "n_encoder_layers",
        ),
        LAYERS,
    ),
    **dict.fromkeys(
        (
            "intermediate_size", "encoder_ffn_dim", "decoder_ffn_dim", "ffn_dim", "n_inner", "d_ff", "d_inner",
            "mlp_dim", "moe_intermediate_size", "shared_expert_intermediate_size", "ffn_hidden_size", "dff", "dim_ff",
            "shared_intermediate_size", "shared_experts_intermediate_size", "expert_ffn_hidden_size",
            "intermediate_size_mlp", "encoder_intermediate_size", "decoder_intermediate_size",
            "moe_shared_expert_intermediate_size", "speech_encoder_intermediate_size", "t2u_encoder_ffn_dim",
            "t2u_decoder_ffn_dim", "dense_intermediate_size", "expert_dim", "alignment_intermediate_size",
        ),
        INNER,
    ),
    **dict.fromkeys(
        ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "num_moe_experts"), 4
    ),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(
        (
            "max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_source_positions",
            "max_target_positions", "max_2d_position_embeddings", "sliding_window", "index_topk",
            "max_text_tokens", "max_length",
        ),
        64,
    ),
    **dict.fromkeys(("num_codevectors_per_group", "codevector_dim", "proj_codevector_dim", "latent_query_num"), 16),
    **dict.fromkeys(("hidden_size_per_layer_input", "pooler_output_size", "codebook_dim"), HEAD_DIM),
    **dict.fromkeys(("vocab_size_per_layer_input", "ngram_vocab_size_ratio"), VOCAB),
    **dict.fromkeys(("state_size", "mamba_d_state", "ssm_state_size", "time_step_rank", "mamba_dt_rank"), 8),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 16),
    **dict.fromkeys(("depths", "num_res_blocks"), 1),
    **dict.fromkeys(("d_latents", "base_channels"), HIDDEN),
    **dict.fromkeys(("num_filters", "patch_embeds_hidden_size"), 8),
    "num_latents": 16,
    "upsample_initial_channel": 64,
}  # fmt: skip


def tiny_config(config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """A config of the class for a model of some ten thousand parameters.

    Raises:
        Exception: Any error of transformers where the sizes are inconsistent.
    """
    return _tiny(config_class, {}, {}, itertools.count(FIRST_SPECIAL))


def _tiny(
    config_class: type[PreTrainedConfig], more: dict[str, Any], ids: dict[str, int], free: Iterator[int]
) -> PreTrainedConfig:
    """`tiny_config` with more overrides; a special token of one name has one id in all parts."""
    given = {**OVERRIDES.get(config_class.model_type, {}), **more}
    base = config_class(**given.pop("default", {}))
    changed: dict[str, Any] = {}
    for name, value in vars(base).items():
        if isinstance(value, PreTrainedConfig):
            changed[name] = _tiny(type(value), given.pop(name, {}), ids, free)
        elif _is_special(name):
            changed |= _special(name, value, ids, free)
        elif name in SIZES:
            changed |= _sized(name, value)
        elif name == "rope_parameters" and "mrope_section" in str(value):
            changed[name] = _rope(value)
    return config_class(**{**changed, **given})


def _sized(name: str, value: Any) -> dict[str, Any]:
    """The small size, or the default if that is smaller; nothing where the default is no number."""
    if isinstance(value, int) and not isinstance(value, bool):
        return {name: VOCAB if name == "vocab_size" else min(SIZES[name], value)}
    if isinstance(value, list | tuple) and all(isinstance(part, int) for part in value):
        return {name: type(value)(min(SIZES[name], part) for part in value)}
    return {}


def _special(name: str, value: Any, ids: dict[str, int], free: Iterator[int]) -> dict[str, Any]:
    """An id within the small vocabulary, the same for the same name."""
    if isinstance(value, int) and value >= FIRST_SPECIAL:
        return {name: ids[name] if name in ids else ids.setdefault(name, next(free))}
    return {name: [1]} if isinstance(value, list | tuple) and value else {}


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the text part; with several, that of the decoder."""
    try:
        return config.get_text_config()
    except ValueError:
        return config.get_text_config(decoder=True)


def with_tie(config: PreTrainedConfig, tie: bool | None) -> PreTrainedConfig:
    """A copy of a config with ``tie_word_embeddings`` set; None leaves it."""
    changed = copy.deepcopy(config)
    if tie is None:
        return changed
    for part in (changed, text_config(changed)):
        part.tie_word_embeddings = tie
    return type(changed).from_dict(changed.to_dict())  # some always tie, when they are read again


def _is_special(name: str) -> bool:
    return name.endswith(("_token_id", "_token_index", "_token_ids", "_eos_id", "_bos_id", "_pad_id"))


def _rope(parameters: dict[str, Any]) -> dict[str, Any]:
    """The same rotary settings for small heads: sections that divide half of a head."""
    return {
        key: _rope(value) if isinstance(value, dict) else ROPE_SECTIONS.get(key, value)
        for key, value in parameters.items()
    }
