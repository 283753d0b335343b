"""A Hugging Face folder from a GGUF file of a Llama-family model, for peers that read no GGUF."""

import pathlib

import gguf
import make_model

from peers.peer import CACHE


def folder_from_gguf(source):
    """The folder (fp32), made once and kept in the cache."""
    source = pathlib.Path(source)
    folder = CACHE / "models" / f"{source.stem}.folder"
    if (folder / "model.safetensors").is_file() and folder.stat().st_mtime >= source.stat().st_mtime:
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    reader = gguf.GGUFReader(source)
    field = lambda name, default=None: reader.fields[name].contents() if name in reader.fields else default
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    heads = field("llama.attention.head_count")
    shape = {
        "name": field("general.name", source.stem),
        "layers": field("llama.block_count"),
        "hidden": field("llama.embedding_length"),
        "query_heads": heads,
        "kv_heads": field("llama.attention.head_count_kv", heads),
        "head_dim": field("llama.attention.key_length", field("llama.embedding_length") // heads),
        "mlp_columns": field("llama.feed_forward_length"),
        "vocabulary": len(field("tokenizer.ggml.tokens")),
        "context": field("llama.context_length"),
        "norm_epsilon": field("llama.attention.layer_norm_rms_epsilon"),
        "rope_theta": field("llama.rope.freq_base", 10000.0),
        "tied_head": "output.weight" not in tensors,
    }
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    make_model.write_hugging_face_files(folder, shape, "F32", field("tokenizer.ggml.tokens"), merges)
    listed = list(make_model.tensor_list(shape))
    writer = make_model.SafetensorsWriter(folder, [(t[0], t[2]) for t in listed], "F32", 1 << 50)
    for name, gguf_name, tensor_shape, kind in listed:
        tensor = tensors[gguf_name]
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(tensor_shape)
        if kind in ("query", "key"):
            count = shape["query_heads" if kind == "query" else "kv_heads"]
            rows, columns = tensor_shape
            values = values.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
        writer.write(name, make_model.store(values, "F32"))
    return folder
