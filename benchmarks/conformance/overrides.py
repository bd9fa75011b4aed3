"""Fields that tiny configs of some model types need besides the sizes of `shrink.SIZES`.

Keys are fields of the config of that type, also as a part of another; a dict under the name of a part has fields of
that part. ``default`` has the fields without which the default config can't be built.
"""

from typing import Any

ROPE_SECTIONS: dict[str, Any] = {"mrope_section": [2, 3, 3]}

MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_expand": 2, "mamba_n_groups": 1}
PLAIN_ROPE = {"rope_type": "default", "rope_theta": 10_000.0}
ROPE_BY_LAYER = {"full_attention": PLAIN_ROPE, "sliding_attention": PLAIN_ROPE}
LOCAL_GLOBAL = ["sliding_attention", "full_attention"]
NOT_PER_LAYER = {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}
TALK = {"head_config": {"audio_hidden_size": 32}}

MULTIMODAL_ROPE = {"rope_parameters": {**PLAIN_ROPE, **ROPE_SECTIONS}}

OVERRIDES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "glm4v_text",
            "glm4v_moe_text",
            "glm_image_text",
            "glm_ocr_text",
            "paddleocr_vl_text",
            "qwen2_vl_text",
            "qwen2_5_vl_text",
            "qwen2_5_omni_text",
        ),
        MULTIMODAL_ROPE,
    ),
    "codegen": {"n_head": 4, "rotary_dim": 8},
    "albert": {"embedding_size": 16},
    "align_vision_model": {"width_coefficient": 0.2, "depth_coefficient": 0.2},
    "autoformer": {"prediction_length": 4},
    "bamba": MAMBA,
    "blt": {"encoder_hash_byte_group_vocab": 100, "encoder_hash_byte_group_size": [3, 4]},
    "bridgetower": {"hidden_size": 64},
    "bridgetower_text_model": {"hidden_size": 64},
    "bridgetower_vision_model": {"hidden_size": 64},
    "chameleon": {"vocabulary_map": {"<image>": 180}},
    "cohere_compass_text": {"layer_types": LOCAL_GLOBAL, "rope_parameters": ROPE_BY_LAYER},
    "dbrx": {"attn_config": {"rope_theta": 10_000.0}},
    "deepseek_ocr2_text": {"mlp_layer_types": ["dense", "sparse"]},
    "diffusion_gemma_text": {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 48},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "dots3_note_audio_encoder": {"adapter_input_size": 32},
    "dots3_note_vision_encoder": {"mlp_layer_types": ["dense", "dense"], "adapter_in_dim": 32},
    "emu3": {"vocabulary_map": {"<image>": 180, "<|extra_200|>": 181}},
    "ernie4_5_vl_moe_text": {"rope_parameters": {**PLAIN_ROPE, "mrope_section": [3, 3, 2]}},
    "electra": {"embedding_size": 16},
    "esm": {"vocab_size": 211, "pad_token_id": 1},
    "fun_asr_nano": {"adaptor_config": {"intermediate_size": 8}},
    "gemma3n_text": {"intermediate_size": 48, "num_kv_shared_layers": 0, "layer_types": LOCAL_GLOBAL},
    "gemma4_assistant": {
        "default": {"text_config": NOT_PER_LAYER},
        "text_config": {**NOT_PER_LAYER, "layer_types": LOCAL_GLOBAL},
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "gradium_phonon_tts": {"flow_head_config": {"condition_dim": 32}},
    "granitemoehybrid": MAMBA,
    "hunyuan_v1_dense": {"head_dim": 16},
    "hunyuan_v1_moe": {"head_dim": 16},
    "hunyuan_vl_text": {"head_dim": 16},
    "idefics": {"additional_vocab_size": 2},
    "informer": {"prediction_length": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "luke": {"entity_vocab_size": 50, "entity_emb_size": 32},
    "mamba2": {"num_heads": 4, "head_dim": 16, "n_groups": 1},
    "ministral": {"head_dim": 16},
    "molmo2": {"adapter_config": {"vision_feature_layer": [1, 0]}},
    "moonshine_streaming": {"num_key_value_heads": 2},
    "muse_spark_audio": {"num_hidden_layers": 4, "hidden_sizes": (32, 32, 32, 32)},
    "nemo_speechlm": TALK,
    "nemotron": {"head_dim": 16, "num_key_value_heads": 2},
    "nemotron3_5_transcribe_audio": TALK,
    "nemotron3_diarization": TALK,
    "nemotron_h_omni": {"vision_config": {"video_temporal_patch_size": 2}},
    "opt": {"word_embed_proj_dim": 16},
    "pocket_tts": {"flow_head_config": {"condition_dim": 32}},
    "qwen2_5_omni_talker": {"vocab_size": 97, **MULTIMODAL_ROPE},
    "qwen3_omni_moe": {"talker_config": {"spatial_merge_size": 2}},
    "qwen3_omni_moe_code2wav": {"decoder_dim": 64},
    "qwen3_omni_moe_talker_code_predictor": {"vocab_size": 97},
    "qwen3_omni_moe_talker_text": {"vocab_size": 97, "shared_expert_intermediate_size": 48},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": (16, 16), "axial_pos_shape": (8, 8)},
    "roc_bert": {
        "pronunciation_embed_dim": 16,
        "pronunciation_vocab_size": 50,
        "shape_embed_dim": 16,
        "shape_vocab_size": 50,
    },
    "t5gemma2_decoder": {"dropout_rate": 0.0},
    "t5gemma2_text": {"dropout_rate": 0.0},
    "time_series_transformer": {"prediction_length": 4},
    "tvp": {"backbone_config": {"embedding_size": 32, "hidden_sizes": [32, 32, 32, 32]}},
    "wav2vec2-bert": {"vocab_size": 211},
    "zamba": {"num_hidden_layers": 4, "attn_layer_period": 1, "attn_layer_offset": 0},
    "zamba2": {"layers_block_type": ["linear_attention", "hybrid"]},
}
