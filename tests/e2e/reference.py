"""A Llama-family forward pass in double precision, written from the model's definition and independent of LLMIR's code:
what the binaries' logits are held against. Reads a Hugging Face folder or a GGUF file."""

import json
import pathlib

import gguf
import numpy as np
from safetensors import safe_open

GGUF_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Model:
    """Configuration (Hugging Face's names) and weights as float64, q and k in Hugging Face's order of rows."""

    def __init__(self, config, weights):
        self.config = config
        self.weights = weights
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.head_dim = config["head_dim"]
        self.frequencies = rope_frequencies(config)

    def logits(self, ids, window=0):
        """Logits [len(ids), vocabulary] after each of the ids; `window` narrows the model's own."""
        w = self.weights
        positions = np.arange(len(ids))
        angles = positions[:, None] * self.frequencies
        cosine, sine = np.cos(angles)[:, None], np.sin(angles)[:, None]
        distance = positions[:, None] - positions[None, :]
        softcap = self.config.get("attention_softcap")
        x = w["model.embed_tokens.weight"][ids]
        for layer in range(self.config["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            y = self.norm(x, w[p + "input_layernorm.weight"])
            q = self.split(self.input(y) @ w[p + "self_attn.q_proj.weight"].T, self.heads)
            k = self.split(self.input(y) @ w[p + "self_attn.k_proj.weight"].T, self.kv_heads)
            v = self.split(self.input(y) @ w[p + "self_attn.v_proj.weight"].T, self.kv_heads)
            q, k = rotate(q, cosine, sine), rotate(k, cosine, sine)
            k, v = (np.repeat(t, self.heads // self.kv_heads, axis=1) for t in (k, v))
            scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.head_dim)
            if softcap:
                scores = softcap * np.tanh(scores / softcap)
            widths = [width for width in (self.window(layer), window) if width]
            scores[:, (distance < 0) | (distance >= min(widths, default=len(ids)))] = -np.inf
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            y = np.einsum("hqk,khd->qhd", scores, v).reshape(len(ids), -1)
            x = x + self.input(y) @ w[p + "self_attn.o_proj.weight"].T
            y = self.norm(x, w[p + "post_attention_layernorm.weight"])
            gate = self.input(y) @ w[p + "mlp.gate_proj.weight"].T
            up = self.input(y) @ w[p + "mlp.up_proj.weight"].T
            x = x + self.input(gate / (1 + np.exp(-gate)) * up) @ w[p + "mlp.down_proj.weight"].T
        x = self.norm(x, w["model.norm.weight"])
        return self.input(x) @ w.get("lm_head.weight", w["model.embed_tokens.weight"]).T

    def input(self, x):
        """What a matrix is multiplied with."""
        return x

    def window(self, layer):
        """Tokens that a token attends to, itself included, or None."""
        return None if layer < self.config.get("max_window_layers", 0) else self.config.get("sliding_window")

    def norm(self, x, weight):
        return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.config["rms_norm_eps"]) * weight

    def split(self, x, heads):
        return x.reshape(len(x), heads, self.head_dim)


class ModelWithBF16Activations(Model):
    def input(self, x):
        bits = x.astype(np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def rotate(x, cosine, sine):
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate([first * cosine - second * sine, second * cosine + first * sine], axis=-1)


def rope_frequencies(config):
    """Radians per position of each pair, scaling applied as transformers defines it."""
    dim = config["head_dim"]
    frequencies = config["rope_theta"] ** -(np.arange(0, dim, 2) / dim)
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type")
    if kind == "linear":
        return frequencies / scaling["factor"]
    if kind == "llama3":
        old_context, factor = scaling["original_max_position_embeddings"], scaling["factor"]
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        for i, frequency in enumerate(frequencies):
            wavelength = 2 * np.pi / frequency
            if wavelength > old_context / low:
                frequencies[i] = frequency / factor
            elif wavelength > old_context / high:
                smooth = (old_context / wavelength - low) / (high - low)
                frequencies[i] = (1 - smooth) * frequency / factor + smooth * frequency
    return frequencies


def from_hugging_face(folder):
    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    weights = {}
    for file in sorted(folder.glob("*.safetensors")):
        # As raw bytes: NumPy has no bfloat16 of its own.
        raw = file.read_bytes()
        with safe_open(file, "numpy") as opened:
            names = list(opened.keys())
        size = int.from_bytes(raw[:8], "little")
        header = json.loads(raw[8 : 8 + size])
        assert sorted(names) == sorted(name for name in header if name != "__metadata__")
        for name in names:
            entry = header[name]
            begin, end = (8 + size + offset for offset in entry["data_offsets"])
            weights[name] = decode(raw[begin:end], entry["dtype"]).reshape(entry["shape"])
    return Model(config, weights)


def decode(raw, dtype):
    if dtype == "BF16":
        return (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return np.frombuffer(raw, {"F32": np.float32, "F16": np.float16}[dtype]).astype(np.float64)


def from_gguf(path):
    reader = gguf.GGUFReader(path)
    field = lambda name, default=None: reader.fields[name].contents() if name in reader.fields else default
    heads = field("llama.attention.head_count")
    config = {
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "head_dim": field("llama.attention.key_length", field("llama.embedding_length") // heads),
        "rms_norm_eps": field("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": field("llama.rope.freq_base"),
    }
    config["sliding_window"] = field("llama.attention.sliding_window")
    config["attention_softcap"] = field("llama.attn_logit_softcapping")
    if field("llama.rope.scaling.type") == "linear":
        config["rope_scaling"] = {"rope_type": "linear", "factor": field("llama.rope.scaling.factor")}
    weights, factors = {}, None
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float64)
        if tensor.name == "rope_freqs.weight":
            factors = values
            continue
        parts = tensor.name.removesuffix(".weight").split(".")
        name = GGUF_NAMES[parts[-1]]
        if parts[0] == "blk":
            name = f"model.layers.{parts[1]}.{name}"
        if parts[-1] in ("attn_q", "attn_k"):
            count = config["num_attention_heads" if parts[-1] == "attn_q" else "num_key_value_heads"]
            rows, columns = values.shape
            values = values.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        weights[name + ".weight"] = values
    model = Model(config, weights)
    if factors is not None:
        model.frequencies = model.frequencies / factors
    return model


def in_block_format(model, bits, minimum, group):
    """The model with every matrix rounded to groups of few bits along its rows, as kernels/block_formats.h defines them.
    Where groups of 64 don't divide the rows, or the columns of a head that the attention output is cut at, they are of 32."""

    def rounded(name, values):
        if values.ndim < 2:
            return values
        cut = model.head_dim if name.endswith("o_proj.weight") else values.shape[1]
        size = group if values.shape[1] % group == 0 and cut % group == 0 else 32
        groups = values.astype(np.float32).reshape(len(values), -1, size)
        low, high = groups.min(axis=-1, keepdims=True), groups.max(axis=-1, keepdims=True)
        if minimum:
            steps, offset, least = (high - low) / np.float32(2**bits - 1), as_half(low), 0
        else:
            least = -(2 ** (bits - 1))
            steps, offset = np.where(high > -low, high, low) / np.float32(least), 0
        steps = as_half(steps)
        numbers = np.clip(np.rint((groups - offset) / np.where(steps == 0, 1, steps)), least, least + 2**bits - 1)
        return (numbers * steps + offset).reshape(values.shape)

    return Model(model.config, {name: rounded(name, values) for name, values in model.weights.items()})


def as_half(values):
    return values.astype(np.float16).astype(np.float64)
