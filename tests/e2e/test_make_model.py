"""perf/make_model.py: the models that all other tests rely on, checked with other people's readers."""

import json
import sys

import gguf
import llmir
import make_model
import numpy as np
import pytest
import reference
import tokenizers
from safetensors.numpy import load_file

TINY = ("tiny-test",)
IDS = (np.arange(24) * 37) % 384


def test_every_shape_file_is_complete():
    files = sorted(make_model.MODELS_FOLDER.glob("*.yaml"))
    assert files
    for file in files:
        shape = make_model.load_shape([str(file)])
        assert sum(1 for _ in make_model.tensor_list(shape)) == 9 * shape["layers"] + (2 if shape["tied_head"] else 3)


def test_same_seed_same_bytes_other_seed_other_bytes(models, tmp_path):
    folder, file = models.random(*TINY)
    make_model.make_model(make_model.load_shape(TINY), 1, tmp_path)
    for name in ("model.safetensors", "config.json", "tokenizer.json", file.name):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    make_model.make_model(make_model.load_shape(TINY), 2, tmp_path)
    assert (tmp_path / file.name).read_bytes() != file.read_bytes()


def test_folder_and_gguf_hold_the_same_model(models):
    folder, file = models.random(*TINY)
    logits = reference.from_hugging_face(folder).logits(IDS)
    np.testing.assert_allclose(reference.from_gguf(file).logits(IDS), logits, atol=1e-9)
    assert 1 < logits.std() < 10, "logits are neither flat nor one-hot"


@pytest.mark.parametrize("hf_type", ["F16", "BF16"])
def test_short_types_are_the_same_in_both_files(models, hf_type):
    folder, file = models.random(*TINY, hf_type=hf_type, gguf_type=hf_type)
    logits = reference.from_hugging_face(folder).logits(IDS)
    np.testing.assert_allclose(reference.from_gguf(file).logits(IDS), logits, atol=1e-9)


@pytest.mark.parametrize("scaling", ["{rope_type: linear, factor: 4.0}",
                                     "{rope_type: llama3, factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0,"
                                     " original_max_position_embeddings: 64}"])  # fmt: skip
def test_rope_scaling_is_the_same_in_both_files(models, scaling):
    folder, file = models.random(*TINY, f"rope_scaling={scaling}")
    plain, _ = models.random(*TINY)
    logits = reference.from_hugging_face(folder).logits(IDS)
    np.testing.assert_allclose(reference.from_gguf(file).logits(IDS), logits, atol=1e-4)  # GGUF's factors are fp32
    assert np.abs(reference.from_hugging_face(plain).logits(IDS) - logits).max() > 0.01


def test_parts_hold_what_one_file_holds(models):
    folder, _ = models.random(*TINY)
    parts, _ = models.random(*TINY, part_bytes=1 << 20)
    whole = load_file(folder / "model.safetensors")
    index = json.loads((parts / "model.safetensors.index.json").read_text())["weight_map"]
    assert len(set(index.values())) > 1
    loaded = {name: load_file(parts / file)[name] for name, file in index.items()}
    assert loaded.keys() == whole.keys()
    for name, values in whole.items():
        np.testing.assert_array_equal(loaded[name], values)


def test_quantized_gguf_has_the_type_asked_for(models):
    for wanted in ("Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        _, file = models.random(*TINY, gguf_type=wanted)
        types = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
        assert types["blk.0.ffn_down.weight"] == wanted
        assert types["blk.0.ffn_norm.weight"] == "F32"


def test_tokenizer_is_a_working_bpe_of_the_shape_size(models):
    folder, file = models.random(*TINY)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert tokenizer.get_vocab_size() == 384
    text = "the tiny model reads 123 naïve words\n"
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text.encode()), "merges are used"
    assert gguf.GGUFReader(file).fields["tokenizer.ggml.tokens"].contents() == [
        token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["no-such-model"], "neither a YAML file"),
        (["tiny-test", "kv_heads=2"], "do not divide"),
        (["tiny-test", "layers=x"], "got 'x', expected int"),
        (["tiny-test", "depth=2"], "unknown key 'depth'"),
        (["tiny-test", "vocabulary=100"], "at least 259"),
    ],
)
def test_wrong_shape_is_one_clear_line(words, message, tmp_path):
    python = [sys.executable, llmir.REPOSITORY / "perf" / "make_model.py"]
    result = llmir.run([*python, *words, "--seed", 1, "--out", tmp_path])
    assert result.status != 0
    assert len(result.stderr.splitlines()) == 1 and message in result.stderr
