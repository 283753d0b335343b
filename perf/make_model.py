#!/usr/bin/env python3
"""Writes a Llama-family model with random weights, as a Hugging Face folder and as a GGUF file.

The two hold the same numbers (unless --gguf-type stores them shorter), so that one can be checked against the other. With
random weights compare logits, never tokens. Everything follows from the shape and the seed. Tensors are made and written
one at a time: memory is bounded by the largest, the embedding.
"""

import argparse
import itertools
import json
import os
import pathlib
import sys
import zlib

import gguf
import numpy as np
import yaml

# Keys of a shape, with the type of their value. Sizes are counts.
SHAPE_KEYS = {
    "name": str,
    "layers": int,
    "hidden": int,
    "query_heads": int,
    "kv_heads": int,
    "head_dim": int,
    "mlp_columns": int,
    "vocabulary": int,
    "context": int,
    "norm_epsilon": float,
    "rope_theta": float,
    "tied_head": bool,
    "rope_scaling": dict,
    "sliding_window": int,  # tokens; of all layers in the GGUF file
    "max_window_layers": int,  # leading layers without it, Hugging Face alone
    "attention_softcap": float,  # GGUF alone
}
OPTIONAL_KEYS = {"rope_scaling", "sliding_window", "max_window_layers", "attention_softcap"}
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SAFETENSORS_TYPES = {"F32": 4, "F16": 2, "BF16": 2}
GGUF_TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
MODELS_FOLDER = pathlib.Path(__file__).resolve().parent.parent / "configs" / "models"


def load_shape(words):
    """A shape from words: the first may name a YAML file or a model of configs/models, the others are key=value."""
    shape = {}
    for word in words:
        if "=" in word:
            key, _, text = word.partition("=")
            shape[key] = yaml.safe_load(text)
        else:
            path = pathlib.Path(word)
            if not path.is_file():
                path = MODELS_FOLDER / (word + ".yaml")
            if not path.is_file():
                known = ", ".join(sorted(p.stem for p in MODELS_FOLDER.glob("*.yaml")))
                raise ValueError(f"SHAPE '{word}' is neither a YAML file nor one of configs/models ({known})")
            shape.update(yaml.safe_load(path.read_text()))
    for key, value in shape.items():
        if key not in SHAPE_KEYS:
            raise ValueError(f"unknown key '{key}' in the shape; known: {', '.join(SHAPE_KEYS)}")
        wanted = SHAPE_KEYS[key]
        if wanted is float and isinstance(value, (int, float)) and not isinstance(value, bool):
            shape[key] = float(value)
        elif type(value) is not wanted:
            raise ValueError(f"shape key '{key}': got {value!r}, expected {wanted.__name__}")
    missing = [key for key in SHAPE_KEYS if key not in shape and key not in OPTIONAL_KEYS]
    if missing:
        raise ValueError(f"the shape lacks {', '.join(missing)}")
    for key in ("layers", "hidden", "query_heads", "kv_heads", "head_dim", "mlp_columns", "context"):
        if shape[key] < 1:
            raise ValueError(f"shape key '{key}': got {shape[key]}, expected at least 1")
    if shape["query_heads"] % shape["kv_heads"]:
        raise ValueError(f"{shape['query_heads']} query heads do not divide into {shape['kv_heads']} KV heads")
    if shape["head_dim"] % 2:
        raise ValueError(f"head_dim {shape['head_dim']} is odd; rotary embedding needs pairs")
    smallest = 256 + len(SPECIAL_TOKENS)
    if shape["vocabulary"] < smallest:
        raise ValueError(f"vocabulary {shape['vocabulary']}: a byte-level tokenizer needs at least {smallest} tokens")
    return shape


# ------------------------------------------------------------------------------------------------------------ the weights


def tensor_list(shape):
    """(Hugging Face name, GGUF name, tensor shape, kind) of every tensor, in the order in which they are written."""
    hidden, mlp = shape["hidden"], shape["mlp_columns"]
    queries, keys = shape["query_heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    yield "model.embed_tokens.weight", "token_embd.weight", (shape["vocabulary"], hidden), "embedding"
    for layer in range(shape["layers"]):
        a, b = f"model.layers.{layer}.", f"blk.{layer}."
        yield a + "input_layernorm.weight", b + "attn_norm.weight", (hidden,), "norm"
        yield a + "self_attn.q_proj.weight", b + "attn_q.weight", (queries, hidden), "query"
        yield a + "self_attn.k_proj.weight", b + "attn_k.weight", (keys, hidden), "key"
        yield a + "self_attn.v_proj.weight", b + "attn_v.weight", (keys, hidden), "linear"
        yield a + "self_attn.o_proj.weight", b + "attn_output.weight", (hidden, queries), "to_residual"
        yield a + "post_attention_layernorm.weight", b + "ffn_norm.weight", (hidden,), "norm"
        yield a + "mlp.gate_proj.weight", b + "ffn_gate.weight", (mlp, hidden), "linear"
        yield a + "mlp.up_proj.weight", b + "ffn_up.weight", (mlp, hidden), "linear"
        yield a + "mlp.down_proj.weight", b + "ffn_down.weight", (hidden, mlp), "to_residual"
    yield "model.norm.weight", "output_norm.weight", (hidden,), "norm"
    if not shape["tied_head"]:
        yield "lm_head.weight", "output.weight", (shape["vocabulary"], hidden), "head"


def make_tensor(shape, seed, name, tensor_shape, kind):
    """Random fp32 values at a scale at which every part of the model matters.

    A linear of width k has deviation 1/sqrt(k), so it maps unit rows to unit rows: attention scores spread by about one and
    are neither flat nor one-hot. What is added to the residual stream is scaled by the number of additions, so that the
    stream stays near one. The head gives logits that spread by about three.
    """
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    values = generator.standard_normal(tensor_shape, dtype=np.float32)
    if kind == "norm":
        return 1 + np.float32(0.1) * values
    if kind == "embedding" and not shape["tied_head"]:
        return values
    scale = tensor_shape[1] ** -0.5
    if kind == "to_residual":
        scale *= (2 * shape["layers"]) ** -0.5
    if kind in ("embedding", "head"):
        scale *= 3
    values *= np.float32(scale)
    return values


def to_interleaved_rope(weight, heads):
    """Rows of q or k from Hugging Face's order (pairs half a head apart) to GGUF's of Llama models (pairs side by side)."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def to_bfloat16(values):
    """fp32 to bfloat16 bits, rounded to nearest even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def store(values, dtype):
    if dtype == "BF16":
        return to_bfloat16(values)
    return values.astype(np.float16 if dtype == "F16" else np.float32)


def load(stored, dtype):
    """The fp32 values that a reader of `stored` sees."""
    if dtype == "BF16":
        return (stored.astype(np.uint32) << 16).view(np.float32)
    return stored.astype(np.float32)


# ---------------------------------------------------------------------------------------------------------- the tokenizer


def byte_characters():
    """GPT-2's printable character for each byte."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    shifted = itertools.count(256)
    return [chr(byte) if byte in plain else chr(next(shifted)) for byte in range(256)]


def make_tokenizer(size):
    """(tokens in order of id, merges): a byte-level BPE with `size` tokens. Merges join a blank or letter to letters, then
    ever longer tokens, in a fixed order."""
    characters = byte_characters()
    tokens = SPECIAL_TOKENS + characters
    known, merges = set(tokens), []
    letters = [characters[ord(letter)] for letter in " etaoinshrdlucmfwypvbgkjqxz"]
    level = letters
    while len(tokens) < size:
        longer = []
        for left, right in itertools.product(level, letters[1:]):
            if len(tokens) == size:
                break
            joined = left + right
            if joined not in known:
                known.add(joined)
                merges.append((left, right))
                tokens.append(joined)
                longer.append(joined)
        level = longer
    return tokens, merges


def tokenizer_json(tokens, merges):
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
            for i, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [f"{left} {right}" for left, right in merges],
        },
    }


# ------------------------------------------------------------------------------------------------------ Hugging Face folder


class SafetensorsWriter:
    """Writes tensors in a known order into model.safetensors, or into numbered parts with an index where all together are
    larger than `part_bytes`."""

    def __init__(self, folder, tensors, dtype, part_bytes):
        self.folder, self.dtype = folder, dtype
        parts, used = [[]], 0
        for name, tensor_shape in tensors:
            size = int(np.prod(tensor_shape)) * SAFETENSORS_TYPES[dtype]
            if parts[-1] and used + size > part_bytes:
                parts.append([])
                used = 0
            parts[-1].append((name, tensor_shape, size))
            used += size
        self.pending = []
        weight_map, total = {}, 0
        for number, part in enumerate(parts, 1):
            file = "model.safetensors" if len(parts) == 1 else f"model-{number:05}-of-{len(parts):05}.safetensors"
            header, offset = {"__metadata__": {"format": "pt"}}, 0
            for name, tensor_shape, size in part:
                header[name] = {"dtype": dtype, "shape": list(tensor_shape), "data_offsets": [offset, offset + size]}
                weight_map[name] = file
                offset += size
            total += offset
            self.pending.append((file, header, [name for name, _, _ in part]))
        if len(parts) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            write_json(folder / "model.safetensors.index.json", index)
        self.file = None

    def write(self, name, stored):
        if self.file is None:
            file, header, self.names = self.pending.pop(0)
            self.file = open(self.folder / file, "wb")
            text = json.dumps(header, separators=(",", ":")).encode()
            text += b" " * (-len(text) % 8)  # the data starts on a multiple of 8
            self.file.write(len(text).to_bytes(8, "little") + text)
        assert name == self.names.pop(0)
        self.file.write(stored.tobytes())
        if not self.names:
            self.file.close()
            self.file = None


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_hugging_face_files(folder, shape, dtype, tokens, merges):
    """Everything but the weights."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "num_hidden_layers": shape["layers"],
        "hidden_size": shape["hidden"],
        "num_attention_heads": shape["query_heads"],
        "num_key_value_heads": shape["kv_heads"],
        "head_dim": shape["head_dim"],
        "intermediate_size": shape["mlp_columns"],
        "vocab_size": shape["vocabulary"],
        "max_position_embeddings": shape["context"],
        "rms_norm_eps": shape["norm_epsilon"],
        "rope_theta": shape["rope_theta"],
        "rope_scaling": shape.get("rope_scaling"),
        "tie_word_embeddings": shape["tied_head"],
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[dtype],
    }
    if "sliding_window" in shape:
        config.update(architectures=["MistralForCausalLM"], model_type="mistral", sliding_window=shape["sliding_window"])
        config.update({key: shape[key] for key in ("max_window_layers",) if key in shape})
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
    write_json(folder / "tokenizer.json", tokenizer_json(tokens, merges))
    tokenizer_config = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "bos_token": SPECIAL_TOKENS[1],
        "eos_token": SPECIAL_TOKENS[2],
        "unk_token": SPECIAL_TOKENS[0],
        "chat_template": CHAT_TEMPLATE,
        "model_max_length": shape["context"],
    }
    write_json(folder / "tokenizer_config.json", tokenizer_config)


# -------------------------------------------------------------------------------------------------------------------- GGUF


def llama3_frequency_factors(shape):
    """By what each rotary frequency is divided: GGUF's rope_freqs.weight."""
    scaling = shape["rope_scaling"]
    old_context = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    exponents = np.arange(0, shape["head_dim"], 2) / shape["head_dim"]
    wavelengths = 2 * np.pi * shape["rope_theta"] ** exponents
    smooth = np.clip((old_context / wavelengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / scaling["factor"] + smooth)).astype(np.float32)


def gguf_type(kind, tensor_shape, wanted):
    """Vectors stay F32, as every converter writes them; so do rows that blocks of 32 don't divide."""
    blocks = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[wanted]][0]
    return wanted if len(tensor_shape) == 2 and tensor_shape[1] % blocks == 0 else "F32"


def open_gguf(path, shape, wanted, tokens, merges, tensors):
    """A writer with metadata and tensor table written; the data follow in the order of `tensors`."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(shape["name"])
    writer.add_file_type(gguf.LlamaFileType[{"F32": "ALL_F32"}.get(wanted, "MOSTLY_" + wanted)])
    writer.add_block_count(shape["layers"])
    writer.add_context_length(shape["context"])
    writer.add_embedding_length(shape["hidden"])
    writer.add_feed_forward_length(shape["mlp_columns"])
    writer.add_head_count(shape["query_heads"])
    writer.add_head_count_kv(shape["kv_heads"])
    writer.add_key_length(shape["head_dim"])
    writer.add_value_length(shape["head_dim"])
    writer.add_layer_norm_rms_eps(shape["norm_epsilon"])
    writer.add_rope_freq_base(shape["rope_theta"])
    writer.add_rope_dimension_count(shape["head_dim"])
    writer.add_vocab_size(shape["vocabulary"])
    if "sliding_window" in shape:
        writer.add_sliding_window(shape["sliding_window"])
    if "attention_softcap" in shape:
        writer.add_attn_logit_softcapping(shape["attention_softcap"])
    scaling = shape.get("rope_scaling") or {}
    if scaling.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(scaling["factor"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t in SPECIAL_TOKENS else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([f"{left} {right}" for left, right in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if scaling.get("rope_type") == "llama3":
        factors = llama3_frequency_factors(shape)
        writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
    for _, name, tensor_shape, kind in tensors:
        stored = gguf.GGMLQuantizationType[gguf_type(kind, tensor_shape, wanted)]
        block, block_bytes = gguf.GGML_QUANT_SIZES[stored]
        row_bytes = tensor_shape[-1] // block * block_bytes
        if stored.name in ("F32", "F16"):
            dtype = np.dtype(np.float32 if stored.name == "F32" else np.float16)
            writer.add_tensor_info(name, tensor_shape, dtype, int(np.prod(tensor_shape)) * dtype.itemsize)
        else:
            byte_shape = (*tensor_shape[:-1], row_bytes)
            writer.add_tensor_info(name, byte_shape, np.dtype(np.uint8), int(np.prod(byte_shape)), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if scaling.get("rope_type") == "llama3":
        writer.write_tensor_data(factors)
    return writer


def gguf_values(values, shape, kind, wanted):
    """`values` as the GGUF file stores them."""
    if kind in ("query", "key"):
        values = to_interleaved_rope(values, shape["query_heads" if kind == "query" else "kv_heads"])
    stored = gguf.GGMLQuantizationType[gguf_type(kind, values.shape, wanted)]
    if stored.name in ("F32", "F16"):
        return np.ascontiguousarray(values, np.float32 if stored.name == "F32" else np.float16)
    return gguf.quants.quantize(np.ascontiguousarray(values), stored)


# ------------------------------------------------------------------------------------------------------------------ writing


def make_model(shape, seed, out, hf=True, gguf_file=True, hf_type="F32", gguf_as="F32", part_bytes=4 << 30):
    """Writes OUT/config.json and so on, and OUT/model.<type>.gguf; returns the GGUF file's path or None.

    The values are rounded to `hf_type` first, so that both forms hold the same model.
    """
    out.mkdir(parents=True, exist_ok=True)
    tensors = list(tensor_list(shape))
    tokens, merges = make_tokenizer(shape["vocabulary"])
    safetensors_writer = gguf_writer = gguf_path = None
    if hf:
        write_hugging_face_files(out, shape, hf_type, tokens, merges)
        safetensors_writer = SafetensorsWriter(out, [(t[0], t[2]) for t in tensors], hf_type, part_bytes)
    if gguf_file:
        gguf_path = out / f"model.{gguf_as.lower()}.gguf"
        gguf_writer = open_gguf(gguf_path, shape, gguf_as, tokens, merges, tensors)
    for name, _, tensor_shape, kind in tensors:
        stored = store(make_tensor(shape, seed, name, tensor_shape, kind), hf_type)
        if safetensors_writer:
            safetensors_writer.write(name, stored)
        if gguf_writer:
            gguf_writer.write_tensor_data(gguf_values(load(stored, hf_type), shape, kind, gguf_as))
    if gguf_writer:
        gguf_writer.close()
    return gguf_path


def main():
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="keys of a shape: " + ", ".join(f"{key} ({kind.__name__})" for key, kind in SHAPE_KEYS.items()),
    )
    parser.add_argument("shape", nargs="+", metavar="SHAPE", help="a YAML file or a name in configs/models, and key=value")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, metavar="DIR")
    parser.add_argument("--no-hf", action="store_true", help="write no Hugging Face folder")
    parser.add_argument("--no-gguf", action="store_true", help="write no GGUF file")
    parser.add_argument("--hf-type", choices=SAFETENSORS_TYPES, default="F32", help="type of the weights (default: F32)")
    parser.add_argument("--gguf-type", choices=GGUF_TYPES, default="F32", help="type of the GGUF file's matrices")
    parser.add_argument("--part-bytes", type=int, default=4 << 30, help="largest safetensors file (default: 4 GiB)")
    arguments = parser.parse_args()
    try:
        shape = load_shape(arguments.shape)
        if arguments.seed < 0:
            raise ValueError(f"--seed: got {arguments.seed}, expected 0 or more")
        path = make_model(
            shape, arguments.seed, arguments.out, not arguments.no_hf, not arguments.no_gguf,
            arguments.hf_type, arguments.gguf_type, arguments.part_bytes,
        )
    except (ValueError, OSError) as error:
        sys.exit(f"make_model: error: {error}")
    if not arguments.no_hf:
        print(arguments.out)
    if path:
        print(path)


if __name__ == "__main__":
    main()
