#!/usr/bin/env python3
"""Write a GGUF of a real model's shape with random weights, already in a file type's blocks: for measuring speed.

usage: random_model.py SHAPE TYPE OUT.gguf        SHAPE: a key of SHAPES, TYPE: F16, Q8_0, Q4_0, Q4_K_M or Q6_K

Needs numpy alone. Codes are uniform and scales chosen so that values have a variance of 1 / columns; the text such a model
writes means nothing, what it costs is what a trained one costs. The vocabulary is 256 bytes and unused entries. An 8B file
takes about a minute.
"""
import struct
import sys

import numpy as np

SHAPES = {  # arch, hidden, layers, heads, kv_heads, head_dim, ffn, vocabulary, rope base, epsilon, biases, tied
    "qwen2.5-0.5b": ("qwen2", 896, 24, 14, 2, 64, 4864, 151936, 1e6, 1e-6, True, True),
    "llama3.2-1b": ("llama", 2048, 16, 32, 8, 64, 8192, 128256, 5e5, 1e-5, False, True),
    "llama3.1-8b": ("llama", 4096, 32, 32, 8, 128, 14336, 128256, 5e5, 1e-5, False, False),
}
# GGUF's number, elements and bytes of a block, and where the f16 scales of a block are with their values for variance 1.
BLOCKS = {
    "F16": (1, 1, 2, []),
    "Q8_0": (8, 32, 34, [(0, 1 / 73.9)]),
    "Q4_0": (2, 32, 18, [(0, 1 / 4.64)]),
    # 6-bit scales and minima are all 32: 32 d (q - 7.5).
    "Q4_K": (12, 256, 144, [(0, 1 / (32 * 4.61)), (2, 7.5 / (32 * 4.61))]),
    "Q6_K": (14, 256, 210, [(208, 1 / (32 * 18.5))]),
}
MIX = {"F16": ("F16", "F16"), "Q8_0": ("Q8_0", "Q8_0"), "Q4_0": ("Q4_0", "Q6_K"), "Q4_K_M": ("Q4_K", "Q6_K"),
       "Q6_K": ("Q6_K", "Q6_K")}
FILE_TYPE = {"F16": 1, "Q8_0": 7, "Q4_0": 2, "Q4_K_M": 15, "Q6_K": 18}


def text(s):
    raw = s.encode()
    return struct.pack("<Q", len(raw)) + raw


def pair(key, value):
    """A key and its value: int as u32, float as f32, str, bool, or a list of str or int (i32)."""
    if isinstance(value, bool):
        return text(key) + struct.pack("<I?", 7, value)
    if isinstance(value, int):
        return text(key) + struct.pack("<II", 4, value)
    if isinstance(value, float):
        return text(key) + struct.pack("<If", 6, value)
    if isinstance(value, str):
        return text(key) + struct.pack("<I", 8) + text(value)
    if isinstance(value[0], str):
        return text(key) + struct.pack("<IIQ", 9, 8, len(value)) + b"".join(text(v) for v in value)
    return text(key) + struct.pack("<IIQ", 9, 5, len(value)) + np.array(value, np.int32).tobytes()


def byte_tokens():
    """GPT-2's printable stand-ins for the 256 bytes."""
    plain = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    return [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]


def metadata(arch, hidden, layers, heads, kv_heads, head_dim, ffn, vocabulary, base, eps, name, file_type):
    tokens = byte_tokens() + [f"[PAD{i}]" for i in range(256, vocabulary)]
    own = {
        "context_length": 32768, "embedding_length": hidden, "block_count": layers, "feed_forward_length": ffn,
        "attention.head_count": heads, "attention.head_count_kv": kv_heads, "rope.freq_base": float(base),
        "attention.layer_norm_rms_epsilon": float(eps), "rope.dimension_count": head_dim,
    }
    return [
        pair("general.architecture", arch), pair("general.name", name), pair("general.file_type", file_type),
        *(pair(f"{arch}.{k}", v) for k, v in own.items()),
        pair("tokenizer.ggml.model", "gpt2"), pair("tokenizer.ggml.pre", "qwen2" if arch == "qwen2" else "llama-bpe"),
        pair("tokenizer.ggml.tokens", tokens), pair("tokenizer.ggml.token_type", [1] * 256 + [5] * (vocabulary - 256)),
        pair("tokenizer.ggml.merges", ["! !"]), pair("tokenizer.ggml.eos_token_id", vocabulary - 1),
        pair("tokenizer.ggml.bos_token_id", vocabulary - 2), pair("tokenizer.ggml.add_bos_token", False),
    ]


def tensors(shape, kind):
    """(name, type, rows, columns); rows 0: a vector of floats."""
    _, hidden, layers, heads, kv_heads, head_dim, ffn, vocabulary, _, _, biases, tied = shape
    usual, better = MIX[kind]
    if hidden % BLOCKS[usual][1] or hidden % BLOCKS[better][1]:
        usual, better = ("Q8_0", "Q8_0") if kind != "Q4_0" else ("Q4_0", "Q8_0")
    yield "token_embd.weight", better if tied else usual, vocabulary, hidden
    yield "output_norm.weight", "F32", 0, hidden
    if not tied:
        yield "output.weight", better, vocabulary, hidden
    for i in range(layers):
        # llama.cpp's mix: half of the value and down projections are of the better type in Q4_K_M.
        more = kind == "Q4_K_M" and (i < layers // 8 or i >= 7 * layers // 8 or (i - layers // 8) % 3 == 2)
        wide = better if more else usual
        rows = {"q": heads * head_dim, "k": kv_heads * head_dim, "v": kv_heads * head_dim}
        for part in ("attn_norm", "ffn_norm"):
            yield f"blk.{i}.{part}.weight", "F32", 0, hidden
        for part, n in rows.items():
            yield f"blk.{i}.attn_{part}.weight", wide if part == "v" else usual, n, hidden
            if biases:
                yield f"blk.{i}.attn_{part}.bias", "F32", 0, n
        yield f"blk.{i}.attn_output.weight", usual, hidden, heads * head_dim
        yield f"blk.{i}.ffn_gate.weight", usual, ffn, hidden
        yield f"blk.{i}.ffn_up.weight", usual, ffn, hidden
        yield f"blk.{i}.ffn_down.weight", wide, hidden, ffn


def blocks(random, kind, columns):
    """A few million random elements of a type, as bytes: blocks, whole."""
    _, elements, size, scales = BLOCKS[kind]
    if kind == "F16":
        return (random.standard_normal(1 << 24, dtype=np.float32) * columns**-0.5).astype(np.float16).view(np.uint8)
    out = random.integers(0, 256, ((1 << 24) // elements, size), np.uint8)
    if kind == "Q4_K":
        # Scales and minima of 32: low bits of the first four, then the last four's two high bits above them.
        out[:, 4:12], out[:, 12:16] = 32 | 0x80, 0
    if kind == "Q6_K":
        out[:, 192:208] = 32
    for at, value in scales:
        out[:, at : at + 2] = np.array([value * columns**-0.5], np.float16).view(np.uint8)
    return out.reshape(-1)


def size_of(kind, rows, columns):
    if kind == "F32":
        return 4 * columns
    _, elements, size, _ = BLOCKS[kind]
    return rows * columns // elements * size


def main():
    name, kind, path = sys.argv[1:4]
    shape = SHAPES[name]
    random, stock = np.random.default_rng(0), {}
    listed = list(tensors(shape, kind))
    keys = metadata(*shape[:10], f"{name}-random", FILE_TYPE[kind])
    head = [b"GGUF", struct.pack("<IQQ", 3, len(listed), len(keys)), *keys]
    offset = 0
    for tensor, kind_of, rows, columns in listed:
        dims = (columns,) if rows == 0 else (columns, rows)
        number = 0 if kind_of == "F32" else BLOCKS[kind_of][0]
        head.append(text(tensor) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, number, offset))
        offset += -(-size_of(kind_of, rows, columns) // 32) * 32
    with open(path, "wb") as out:
        out.write(b"".join(head))
        out.write(b"\0" * (-out.tell() % 32))
        for tensor, kind_of, rows, columns in listed:
            left = size_of(kind_of, rows, columns)
            padding = -left % 32
            if kind_of == "F32":
                around = 0.0 if tensor.endswith("bias") else 1.0
                out.write((around + 0.1 * random.standard_normal(columns)).astype(np.float32).tobytes())
                left = 0
            else:
                data = stock.setdefault((kind_of, columns), None)
                if data is None:
                    data = stock[kind_of, columns] = blocks(random, kind_of, columns)
                size = BLOCKS[kind_of][2]
                at = int(random.integers(len(data) // size)) * size
                while left > 0:
                    part = data[at : at + left]
                    out.write(part.data)
                    left, at = left - len(part), 0
            out.write(b"\0" * padding)


main()
