#!/usr/bin/env python3
"""Make models that the engine was not developed with, and what transformers computes with them.

    python held_out.py pack --llama-cpp LLAMA_CPP --tokenizers PACK --out DIR [--only NAME..]
    python held_out.py long --llama-cpp LLAMA_CPP --tokenizers PACK --out DIR [--only NAME..]

`pack` makes one small model with random weights for each family and variant below, in other shapes and with other
parameters than the reference pack has, as DIR/NAME/model.gguf and expected.json in the form of that pack. `long` makes
models whose contexts go past the window, past the original context, past 4k and past 32k positions, with the logits at
some of them. `accuracy DIR/*` measures the first kind, `accuracy --long DIR/*` the second.

The files are written by the classes of llama.cpp's converter from a source tree (LLAMA_CPP), so names, permutations and
metadata are not ours. The logits are transformers' in float32. Tokenizers, with their recorded cases, are those of the
reference pack (PACK), padded to another size. Needs torch, transformers, safetensors, numpy; was run with torch 2.15
and transformers 4.57.6, `ministral3*` with transformers 5.23.0, which is the first to have that class.
"""
import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers

# Prompts of which the one with the clearest greedy continuation is taken.
CANDIDATES = 24
GREEDY = 24


def long_factors(n, first, step):
    return [round(first + step * i, 3) for i in range(n)]


def shape(hidden, layers, heads, kv, ffn, vocab, **more):
    """The sizes that nearly every configuration has."""
    return {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": kv, "intermediate_size": ffn, "vocab_size": vocab,
            "max_position_embeddings": 2048, "attn_implementation": "eager", **more}


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
LLAMA32 = {**LLAMA3, "factor": 32.0, "original_max_position_embeddings": 8192}


def longrope(n):
    return {"type": "longrope", "short_factor": long_factors(n, 1.0, 0.11), "long_factor": long_factors(n, 1.2, 1.7)}


# name: (class, tokenizer's model in the reference pack, arguments of the configuration, extra GGUF keys)
PACK = {
    # Llama: GQA 7:1 and 3:1, MQA, MHA; head sizes 16 to 128; odd numbers of layers; tied and untied.
    "llama3-gqa-7-1": ("Llama", "llama3-gqa", shape(112, 3, 7, 1, 200, 451, rms_norm_eps=1e-6, rope_theta=5e5,
                                                    rope_scaling=LLAMA3), {}),
    "llama3-tied-head80": ("Llama", "llama3-gqa", shape(96, 1, 6, 2, 136, 449, head_dim=80, tie_word_embeddings=True,
                                                        rms_norm_eps=1e-5, rope_theta=5e5, rope_scaling=LLAMA32), {}),
    "llama2-mha-head96": ("Llama", "llama2-spm-mha", shape(192, 5, 2, 2, 88, 453, rms_norm_eps=1e-5), {}),
    "llama-mqa-head112": ("Llama", "llama3-gqa", shape(72, 2, 5, 1, 104, 470, head_dim=112, rms_norm_eps=3e-5), {}),
    "llama-linear-mha": ("Llama", "llama-linear-rope", shape(80, 3, 5, 5, 120, 455, rope_theta=2e4,
                                                             rope_scaling={"rope_type": "linear", "factor": 8.0}), {}),
    "llama-yarn": ("Llama", "llama3-gqa", shape(64, 2, 4, 1, 96, 461, rope_scaling={
        "rope_type": "yarn", "factor": 6.0, "original_max_position_embeddings": 32, "beta_fast": 24.0,
        "beta_slow": 2.0}), {}),
    "llama-yarn-attention-factor": ("Llama", "llama3-gqa", shape(64, 2, 4, 1, 96, 461, rope_scaling={
        "rope_type": "yarn", "factor": 6.0, "original_max_position_embeddings": 32, "attention_factor": 0.8}), {}),
    "llama-biases": ("Llama", "llama3-gqa", shape(64, 2, 4, 2, 72, 448, attention_bias=True, mlp_bias=True), {}),
    "llama-wide": ("Llama", "llama-q", shape(512, 2, 4, 2, 768, 400, tie_word_embeddings=True, rope_theta=5e5), {}),
    "llama-head128": ("Llama", "llama3-gqa", shape(128, 2, 3, 3, 96, 452, head_dim=128), {}),
    # Mistral: a window in the metadata, head size apart from hidden / heads, huge rope bases, experts.
    "mistral-window": ("Mistral", "mistral7b-spm", shape(60, 3, 6, 3, 100, 449, head_dim=20, sliding_window=20),
                       {"attention.sliding_window": 20}),
    "mistral-spm": ("Mistral", "mistral7b-spm", shape(96, 3, 12, 4, 144, 460, sliding_window=None,
                                                      rms_norm_eps=1e-6), {}),
    "mistral-nemo-mqa": ("Mistral", "mistral-nemo", shape(72, 3, 5, 1, 128, 455, head_dim=112, rope_theta=1e6,
                                                          sliding_window=None), {}),
    "mistral3-small": ("Mistral3", "mistral3", shape(96, 3, 6, 2, 112, 450, head_dim=24, rope_theta=1e9,
                                                     sliding_window=None), {}),
    "mixtral-6-3": ("Mixtral", "mixtral", shape(72, 3, 6, 2, 56, 449, num_local_experts=6, num_experts_per_tok=3,
                                                rope_theta=1e6, sliding_window=None), {}),
    "mixtral-3-1": ("Mixtral", "mixtral", shape(64, 1, 4, 4, 80, 448, num_local_experts=3, num_experts_per_tok=1,
                                                rms_norm_eps=1e-6, sliding_window=None), {}),
    "ministral3-temperature": ("Ministral3", "ministral3", shape(80, 3, 5, 1, 112, 449, head_dim=24, rope_parameters={
        "rope_type": "yarn", "rope_theta": 5e5, "factor": 8.0, "original_max_position_embeddings": 12,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.15}), {}),
    # Qwen: dense tied and untied, 14:2, YaRN, experts.
    "qwen2-14-2": ("Qwen2", "qwen2", shape(112, 3, 14, 2, 152, 471, tie_word_embeddings=True, rope_theta=1e6), {}),
    "qwen2.5-untied": ("Qwen2", "qwen2", shape(84, 3, 7, 7, 100, 453, rope_theta=1e6, rms_norm_eps=1e-5), {}),
    "qwen2.5-window-off": ("Qwen2", "qwen2", shape(64, 2, 4, 2, 96, 450, use_sliding_window=False,
                                                   sliding_window=16, max_window_layers=1), {}),
    "qwen2-yarn": ("Qwen2", "qwen2-yarn", shape(96, 2, 3, 1, 100, 460, rope_theta=1e6, rope_scaling={
        "rope_type": "yarn", "factor": 2.5, "original_max_position_embeddings": 24}), {}),
    "qwen2moe-6-2": ("Qwen2Moe", "qwen2moe", shape(72, 3, 6, 3, 80, 450, num_experts=6, num_experts_per_tok=2,
                                                   moe_intermediate_size=40, shared_expert_intermediate_size=96,
                                                   norm_topk_prob=False, rms_norm_eps=1e-5), {}),
    "qwen3-tied": ("Qwen3", "qwen3", shape(64, 3, 6, 2, 88, 449, head_dim=32, tie_word_embeddings=True,
                                           rope_theta=1e6), {}),
    "qwen3-untied": ("Qwen3", "qwen3", shape(80, 2, 8, 1, 96, 462, head_dim=40, tie_word_embeddings=False,
                                             rope_theta=1e6, rms_norm_eps=1e-5), {}),
    "qwen3-yarn": ("Qwen3", "qwen3", shape(64, 2, 4, 2, 88, 449, head_dim=48, rope_theta=1e6, rope_scaling={
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}), {}),
    "qwen3moe-7-3": ("Qwen3Moe", "qwen3moe", shape(64, 3, 4, 1, 96, 451, head_dim=48, num_experts=7,
                                                   num_experts_per_tok=3, moe_intermediate_size=24,
                                                   norm_topk_prob=True, rope_theta=1e7), {}),
    # Gemma: MHA and MQA, other caps and windows, and the sizes whose attention scale is another.
    "gemma1-mha": ("Gemma", "gemma1", shape(72, 3, 3, 3, 100, 604, head_dim=40, hidden_activation="gelu_pytorch_tanh",
                                            rms_norm_eps=1e-5), {}),
    "gemma2-window10": ("Gemma2", "gemma2", shape(60, 5, 6, 3, 96, 603, head_dim=20, sliding_window=10,
                                                  query_pre_attn_scalar=20, attn_logit_softcapping=7.5,
                                                  final_logit_softcapping=11.0), {}),
    "gemma2-46-layers": ("Gemma2", "gemma2", shape(48, 46, 2, 1, 40, 601, head_dim=16, sliding_window=21,
                                                   query_pre_attn_scalar=24, attn_logit_softcapping=50.0,
                                                   final_logit_softcapping=30.0), {}),
    "gemma3-linear-global": ("Gemma3", "gemma3", shape(64, 8, 4, 1, 72, 605, head_dim=32, sliding_window=9,
                                                       query_pre_attn_scalar=32, rope_theta=1e6,
                                                       rope_local_base_freq=1e4, sliding_window_pattern=6,
                                                       rope_scaling={"rope_type": "linear", "factor": 8.0}), {}),
    "gemma3-local-base": ("Gemma3", "gemma3", shape(56, 13, 6, 2, 64, 600, head_dim=20, sliding_window=17,
                                                    query_pre_attn_scalar=20, rope_theta=5e5, rope_local_base_freq=3e3,
                                                    sliding_window_pattern=6, rms_norm_eps=1e-5), {}),
    "gemma3-62-layers": ("Gemma3", "gemma3", shape(48, 62, 2, 1, 40, 600, head_dim=16, sliding_window=14,
                                                   query_pre_attn_scalar=24, rope_theta=1e6, rope_local_base_freq=1e4,
                                                   sliding_window_pattern=6), {}),
    # GLM: with and without biases, MQA, head size apart from hidden / heads, rope ratios.
    "glm4-mqa": ("Glm4", "glm4", shape(80, 3, 5, 1, 104, 455, head_dim=24, attention_bias=True, rms_norm_eps=1e-6,
                                       partial_rotary_factor=0.5), {}),
    "glm4-no-bias": ("Glm4", "glm4", shape(96, 2, 6, 2, 88, 450, head_dim=32, attention_bias=False,
                                           partial_rotary_factor=0.5, rope_theta=5e4), {}),
    "chatglm-fused": ("ChatGLM", "chatglm-fused", shape(96, 3, 6, 1, 104, 452, head_dim=16, attention_bias=True,
                                                        partial_rotary_factor=0.5, rope_theta=5e6,
                                                        rms_norm_eps=1e-5), {}),
    "chatglm-sep": ("Glm", "chatglm-sep", shape(72, 3, 3, 3, 96, 450, head_dim=24, attention_bias=True,
                                                partial_rotary_factor=0.5, rope_theta=2e4, rms_norm_eps=1e-6), {}),
    # Phi-3: no long factors, either set of them and the change from one to the other, partial rotation, a window.
    "phi3-window": ("Phi3", "phi3", shape(72, 3, 6, 6, 88, 450, sliding_window=13, rope_theta=1e4,
                                          original_max_position_embeddings=2048), {}),
    "phi3-short": ("Phi3", "phi3", shape(80, 3, 5, 1, 96, 453, rope_scaling=longrope(8), sliding_window=None,
                                         original_max_position_embeddings=128), {}),
    "phi3-long": ("Phi3", "phi3", shape(64, 2, 4, 2, 72, 449, rope_scaling=longrope(8), sliding_window=None,
                                        original_max_position_embeddings=16), {}),
    "phi4-mini": ("Phi3", "phi3", shape(128, 2, 4, 2, 72, 449, rope_scaling=longrope(12), sliding_window=None,
                                        partial_rotary_factor=0.75, tie_word_embeddings=True,
                                        original_max_position_embeddings=256), {}),
}

FAR = [0, 63, 127, 128, 129, 255, 1023, 1024, 2047, 4095, 4096, 4500, 16383, 32766, 32767, 32768, 33000]
NEAR = [p for p in FAR if p <= 4500]


def far(context, **more):
    return {"max_position_embeddings": context, **more}


# The same, with the positions whose logits are recorded; the last one gives the length.
LONG = {
    "llama3-scaled": ("Llama", "llama3-gqa", shape(64, 2, 4, 2, 96, 448, rope_theta=5e5, rope_scaling={
        **LLAMA3, "original_max_position_embeddings": 8192}, **far(40960)), {}, FAR),
    "llama-linear": ("Llama", "llama-linear-rope", shape(64, 2, 4, 1, 96, 448, rope_scaling={
        "rope_type": "linear", "factor": 4.0}, **far(40960)), {}, FAR),
    "mistral-window": ("Mistral", "mistral7b-spm", shape(64, 2, 4, 2, 96, 448, head_dim=24, sliding_window=1024,
                                                         **far(40960)), {"attention.sliding_window": 1024}, FAR),
    "mixtral": ("Mixtral", "mixtral", shape(64, 2, 4, 2, 56, 448, num_local_experts=4, num_experts_per_tok=2,
                                            rope_theta=1e6, sliding_window=None, **far(40960)), {}, NEAR),
    "ministral3": ("Ministral3", "ministral3", shape(64, 2, 4, 2, 96, 448, head_dim=32, rope_parameters={
        "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 2048,
        "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1},
        **far(40960)), {}, FAR),
    "qwen2-yarn": ("Qwen2", "qwen2-yarn", shape(64, 2, 2, 1, 96, 448, rope_theta=1e6, rope_scaling={
        "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8192}, **far(40960)), {}, FAR),
    "qwen3moe": ("Qwen3Moe", "qwen3moe", shape(64, 2, 4, 2, 96, 448, head_dim=32, num_experts=6, num_experts_per_tok=2,
                                               moe_intermediate_size=24, norm_topk_prob=True, rope_theta=1e6,
                                               **far(40960)), {}, NEAR),
    "gemma1": ("Gemma", "gemma1", shape(64, 2, 2, 1, 96, 600, head_dim=32, hidden_activation="gelu_pytorch_tanh",
                                        **far(40960)), {}, FAR),
    "gemma2": ("Gemma2", "gemma2", shape(64, 2, 4, 2, 96, 600, head_dim=32, sliding_window=128,
                                         query_pre_attn_scalar=32, **far(40960)), {}, FAR),
    "gemma3": ("Gemma3", "gemma3", shape(64, 6, 2, 1, 96, 600, head_dim=32, sliding_window=128,
                                         query_pre_attn_scalar=32, rope_theta=1e6, rope_local_base_freq=1e4,
                                         sliding_window_pattern=6, rope_scaling={"rope_type": "linear", "factor": 8.0},
                                         **far(40960)), {}, FAR),
    "glm4": ("Glm4", "glm4", shape(64, 2, 4, 2, 96, 448, head_dim=32, attention_bias=True, partial_rotary_factor=0.5,
                                   **far(40960)), {}, FAR),
    "chatglm": ("ChatGLM", "chatglm-fused", shape(64, 2, 4, 2, 96, 448, head_dim=16, attention_bias=True,
                                                  partial_rotary_factor=0.5, rope_theta=5e6, **far(40960)), {}, FAR),
    "phi3-long": ("Phi3", "phi3", shape(64, 2, 4, 4, 96, 448, rope_scaling=longrope(8), sliding_window=None,
                                        original_max_position_embeddings=4096, **far(40960)), {}, FAR),
    "phi3-short": ("Phi3", "phi3", shape(64, 2, 4, 4, 96, 448, rope_scaling=longrope(8), sliding_window=None,
                                         original_max_position_embeddings=4096, **far(40960)), {},
                   [p for p in FAR if p < 4096]),
    "phi3-window": ("Phi3", "phi3", shape(64, 2, 4, 4, 96, 448, sliding_window=2047,
                                          original_max_position_embeddings=40960, **far(40960)), {}, FAR),
}


def build(cls, config, seed):
    """A model with random weights of a size that lets every part of it show in the logits."""
    name = "Glm" if cls == "ChatGLM" else cls
    config_class = getattr(transformers, f"{name}TextConfig" if name == "Gemma3" else f"{name}Config", None)
    if name == "Mistral3":
        # The text part of these files is Mistral's; only the architecture's name is another.
        name, config_class = "Mistral", transformers.MistralConfig
    model_class = getattr(transformers, f"{name}ForCausalLM", None)
    if config_class is None or model_class is None:
        return None
    config = dict(config)
    attention = config.pop("attn_implementation")
    # Otherwise 'generate'-related defaults outside the vocabulary are refused.
    config.update(bos_token_id=1, eos_token_id=2, pad_token_id=None)
    config = config_class(**config)
    config._attn_implementation = attention
    torch.manual_seed(seed)
    model = model_class(config).float().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            p.copy_(initial(key, p, config, plus_one=cls.startswith("Gemma")))
    model.tie_weights()
    return model


def initial(key, p, config, plus_one):
    if "norm" in key:
        return (0.0 if plus_one else 1.0) + 0.25 * torch.randn_like(p)
    if key.endswith("bias"):
        return 0.3 * torch.randn_like(p)
    if "embed_tokens" in key or "lm_head" in key:
        tied = config.tie_word_embeddings
        return torch.randn_like(p) * (3.0 / config.hidden_size**0.5 if tied or "lm_head" in key else 1.0)
    gain = 1.6 if any(part in key for part in ("q_proj", "k_proj", "qkv_proj", ".gate.", "router")) else 1.1
    return torch.randn_like(p) * gain / p.shape[-1]**0.5


def save(model, cls, folder):
    """A Hugging Face folder that the converter reads."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if cls == "Mistral3":
        config["architectures"] = ["Mistral3ForConditionalGeneration"]
    if cls in ("Glm", "ChatGLM"):
        c = model.config
        # Keys under which the converter looks in these families.
        config.update(seq_length=c.max_position_embeddings, layernorm_epsilon=c.rms_norm_eps,
                      rope_ratio=c.rope_theta / 10000)
    if cls == "ChatGLM":
        c = model.config
        config = {"architectures": ["ChatGLMModel"], "model_type": "chatglm", "hidden_size": c.hidden_size,
                  "num_attention_heads": c.num_attention_heads, "multi_query_group_num": c.num_key_value_heads,
                  "ffn_hidden_size": c.intermediate_size, "layernorm_epsilon": c.rms_norm_eps,
                  "padded_vocab_size": c.vocab_size, "vocab_size": c.vocab_size, "num_layers": c.num_hidden_layers,
                  "seq_length": c.max_position_embeddings, "rope_ratio": c.rope_theta / 10000}
        from safetensors.torch import save_file
        save_file(chatglm_tensors(model), folder / "model.safetensors", metadata={"format": "pt"})
    if cls == "Gemma3":
        # The converter asks only whether it is there.
        (folder / "tokenizer.model").write_bytes(b"")
    path.write_text(json.dumps(config))


def chatglm_tensors(model):
    """The tensors under the names of the original ChatGLM, with q, k and v in one matrix."""
    given, out = model.state_dict(), {}
    out["transformer.embedding.word_embeddings.weight"] = given["model.embed_tokens.weight"]
    out["transformer.encoder.final_layernorm.weight"] = given["model.norm.weight"]
    out["transformer.output_layer.weight"] = given["lm_head.weight"]
    for i in range(model.config.num_hidden_layers):
        old, new = f"model.layers.{i}.", f"transformer.encoder.layers.{i}."
        for kind in ("weight", "bias"):
            parts = [given[f"{old}self_attn.{p}_proj.{kind}"] for p in "qkv"]
            out[f"{new}self_attention.query_key_value.{kind}"] = torch.cat(parts)
        for a, b in (("self_attn.o_proj", "self_attention.dense"), ("mlp.gate_up_proj", "mlp.dense_h_to_4h"),
                     ("mlp.down_proj", "mlp.dense_4h_to_h"), ("input_layernorm", "input_layernorm"),
                     ("post_attention_layernorm", "post_attention_layernorm")):
            out[f"{new}{b}.weight"] = given[f"{old}{a}.weight"]
    return {k: v.contiguous().clone() for k, v in out.items()}


def convert(hf, out, tokenizer, vocab, extra):
    """Writes `out` with llama.cpp's converter and the tokenizer of another file, padded to `vocab` tokens."""
    import gguf
    from conversion import get_model_class
    from conversion.base import ModelBase, ModelType, get_model_architecture
    cls = get_model_class(get_model_architecture(ModelBase.load_hparams(hf, False), ModelType.TEXT))

    def set_vocab(self):
        copy_tokenizer(gguf.GGUFReader(tokenizer), self.gguf_writer, vocab)
        for key, value in extra.items():
            self.gguf_writer.add_uint32(f"{gguf.MODEL_ARCH_NAMES[self.model_arch]}.{key}", value)

    changed = {"set_vocab": set_vocab, "model_arch": cls.model_arch,
               "_create_vocab_sentencepiece": lambda self: ([b""] * vocab, [0.0] * vocab, [1] * vocab)}
    inner = getattr(cls, "Ministral3Model", None)
    if inner is None:
        converter = type("Converter", (cls,), changed)
    else:
        # This class hands everything to one inside it, whose tokenizer is the one to replace.
        inner.set_vocab, converter = set_vocab, cls
    # Names of families in it would decide between plugins and change tokenizers.
    model = converter(hf, gguf.LlamaFileType.ALL_F32, out, model_name="Held out")
    model.write()


def copy_tokenizer(reader, writer, vocab):
    fillers = {"tokenizer.ggml.tokens": lambda i: f"[PAD{i}]", "tokenizer.ggml.scores": lambda i: -1000.0,
               "tokenizer.ggml.token_type": lambda i: 5}
    for key, field in reader.fields.items():
        if not key.startswith("tokenizer."):
            continue
        value = field.contents()
        if key in fillers:
            assert len(value) <= vocab, f"{key} has {len(value)} entries, the model {vocab}"
            value = list(value) + [fillers[key](i) for i in range(len(value), vocab)]
        kind = field.types[0]
        writer.add_key_value(key, value, kind, field.types[-1] if len(field.types) > 1 else None)


def logits_of(model, batch):
    """After every token of each sequence `[n, tokens]`, in one pass."""
    with torch.inference_mode():
        return model(batch, use_cache=False).logits.float()


def greedy(model, batch):
    """Continuations, each token from a pass over the whole sequence, with margins and rows of logits."""
    start, margins, rows = batch.shape[1], [], []
    for _ in range(GREEDY):
        row = logits_of(model, batch)[:, -1]
        best = row.topk(2)
        margins.append(best.values[:, 0] - best.values[:, 1])
        rows.append(row)
        batch = torch.cat([batch, best.indices[:, :1]], 1)
    return batch[:, start:], torch.stack(margins, 1).amin(1), torch.stack(rows, 1)


def record(model, folder, generator):
    """Sequences whose greedy continuation does not hang on rounding, with their logits."""
    vocab, sequences = model.config.vocab_size, {}
    for name, length, file in (("random48", 48, "logits"), ("short1", 5, "logits_short1"),
                               ("short2", 2, "logits_short2")):
        candidates = torch.randint(0, vocab, (CANDIDATES, length), generator=generator)
        out, margins, rows = greedy(model, candidates)
        best = int(margins.argmax())
        ids = candidates[best]
        all_rows = logits_of(model, ids[None])[0].numpy()
        np.save(folder / f"{file}.npy", all_rows)
        entry = {"ids": ids.tolist(), "logits": f"{file}.npy", "greedy_ids": out[best].tolist(),
                 "greedy_margin_min": float(margins[best]), "logit_std": float(all_rows.std())}
        # Where a longer sequence has other rope factors, what was computed before is computed anew, so that there is no
        # one array of logits token by token.
        original = getattr(model.config, "original_max_position_embeddings", None)
        if name == "random48" and not (original and length < original <= length + GREEDY):
            np.save(folder / "greedy_logits.npy", rows[best].numpy())
            entry["greedy_logits"] = "greedy_logits.npy"
        sequences[name] = entry
    return sequences


def far_logits(model, ids, positions, chunk=512):
    """Logits at some positions of a long sequence, computed in pieces with a cache."""
    rotary = getattr(model.model, "rotary_emb", None)
    original = getattr(model.config, "original_max_position_embeddings", None)
    if getattr(rotary, "rope_type", None) == "longrope" and original and len(ids) > original:
        # In pieces the first ones would be taken for a short sequence.
        inv_freq, _ = rotary.rope_init_fn(model.config, "cpu", seq_len=len(ids))
        rotary.register_buffer("inv_freq", inv_freq, persistent=False)
        rotary.rope_type = "default"
    # With the configuration, layers with a window keep no more than that.
    cache, rows = transformers.DynamicCache(config=model.config), []
    with torch.inference_mode():
        for start in range(0, len(ids), chunk):
            piece = torch.tensor([ids[start:start + chunk]])
            at = torch.arange(start, start + piece.shape[1])
            found = model(piece, past_key_values=cache, use_cache=True, cache_position=at,
                          position_ids=at[None]).logits[0]
            rows += [found[p - start].numpy() for p in positions if start <= p < start + piece.shape[1]]
    return np.stack(rows)


def make(name, index, spec, args, record_it):
    cls, tokenizer, config, extra, *rest = spec
    model = build(cls, config, 7000 + index)
    if model is None:
        print(f"{name}: left out, transformers {transformers.__version__} has no {cls}ForCausalLM")
        return
    folder = args.out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    source = args.tokenizers / tokenizer
    with tempfile.TemporaryDirectory() as hf:
        save(model, cls, Path(hf))
        convert(Path(hf), folder / "model.gguf", source / "model.gguf", config["vocab_size"], extra)
        shutil.copy(Path(hf) / "config.json", folder / "config.json")
    generator = torch.Generator().manual_seed(9000 + index)
    expected = {"name": name, "hf_class": type(model).__name__, "transformers": transformers.__version__,
                "torch": torch.__version__, "vocab_size": config["vocab_size"]}
    expected.update(record_it(model, folder, generator, source, rest))
    (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False))
    print(f"{name}: made", flush=True)


def short_record(model, folder, generator, source, _):
    given = json.loads((source / "expected.json").read_text())
    sequences = record(model, folder, generator)
    print({k: (round(v["logit_std"], 2), round(v["greedy_margin_min"], 4)) for k, v in sequences.items()})
    return {"sequences": sequences, "tokenizer": given["tokenizer"], "chat": given["chat"]}


def long_record(model, folder, generator, _, rest):
    positions = rest[0]
    model.config._attn_implementation = "sdpa" if model.config.model_type != "gemma2" else "eager"
    ids = torch.randint(0, model.config.vocab_size, (positions[-1] + 1,), generator=generator).tolist()
    np.save(folder / "far_logits.npy", far_logits(model, ids, positions))
    return {"far": {"ids": ids, "positions": positions, "logits": "far_logits.npy"}}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["pack", "long"])
    parser.add_argument("--llama-cpp", type=Path, required=True, help="source tree with convert_hf_to_gguf.py")
    parser.add_argument("--tokenizers", type=Path, required=True, help="folder of the reference pack")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="make these models instead of all")
    args = parser.parse_args()
    sys.path[:0] = [str(args.llama_cpp), str(args.llama_cpp / "gguf-py")]
    specs, record_it = (PACK, short_record) if args.what == "pack" else (LONG, long_record)
    for unknown in set(args.only) - set(specs):
        parser.error(f"'{unknown}' is none of {', '.join(specs)}")
    for index, (name, spec) in enumerate(specs.items()):
        if not args.only or name in args.only:
            make(name, index, spec, args, record_it)


if __name__ == "__main__":
    main()
