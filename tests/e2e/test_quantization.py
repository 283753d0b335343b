"""Calibrated weights: collect activations, choose types and values, pack them, run them on one rank and on two."""

import json
import shutil

import llmir
import numpy as np
import pytest
import quantization  # perf/quantization.py, found through conftest
import reference
from safetensors import numpy as safetensors

# Grouped-query attention, and leaves of 32 columns in which groups of 64 don't fit.
SHAPE = ("tiny-test", "query_heads=6", "kv_heads=2", "hidden=192")
OPTIONS = ("--context", 256, "--max-batch", 4, "--prefill-chunk", 48)
PROMPT = [int(i) for i in (np.arange(100) * 37 + 11) % 384]
FORCED = [int(i) for i in (np.arange(20) * 101 + 3) % 384]


class Collected:
    def __init__(self, folder, model, hf_folder, path, texts):
        self.folder, self.model, self.hf_folder, self.path, self.texts = folder, model, hf_folder, path, texts


@pytest.fixture(scope="module")
def collected(models, tmp_path_factory):
    hf_folder, model = models.random(*SHAPE)
    folder = tmp_path_factory.mktemp("activations")
    random = np.random.default_rng(3)
    texts = [random.integers(0, 384, 90).tolist() for _ in range(10)]
    lines = llmir.write_jsonl(folder / "texts.jsonl", [{"prompt_ids": ids} for ids in texts])
    models.job(model, "--weights", "f32", *OPTIONS).run("--score", lines, "--collect-activations", folder / "a.json").check()
    return Collected(folder, model, hf_folder, folder / "a.json", texts)


def forced_logits(job):
    prompt = {"prompt_ids": PROMPT, "force_ids": FORCED}
    _, (logits,) = job.generate_with_logits([prompt], "--max-tokens", len(FORCED), "--ignore-eos")
    return logits


def calibrated(collected, name, *options, tp=1):
    """A job with weights calibrated into its own packed file."""
    folder = collected.folder / name
    folder.mkdir()
    path = llmir.plan(collected.model, folder / "plan.fb", "--tp", tp, "--activations", collected.path, *OPTIONS, *options)
    return llmir.Job(path, tp, folder)


def test_measured_inputs_are_those_of_a_double_precision_model(collected):
    held = json.loads(collected.path.read_text(encoding="utf-8"))
    matrices = safetensors.load_file(collected.path.with_name(held["matrices"]["file"]))
    model = reference.from_hugging_face(collected.hf_folder)
    ids = np.concatenate([ids[:-1] for ids in collected.texts])
    x = model.norm(model.weights["model.embed_tokens.weight"][ids], model.weights["model.layers.0.input_layernorm.weight"])
    entry = next(entry for entry in held["inputs"] if entry["name"] == "layers.0.qkv")
    assert entry["tokens"] == len(x) == 10 * 89
    assert len(entry["tensors"]) == 3
    np.testing.assert_allclose(matrices["layers.0.qkv"], x.T @ x / len(x), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(entry["mean_abs"], np.abs(x).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(entry["mean_square"], (x**2).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(entry["max_abs"], np.abs(x).max(axis=0), rtol=1e-4)
    np.testing.assert_array_equal(matrices["embedding_uses"], np.bincount(ids, minlength=384))
    assert {entry["name"] for entry in held["inputs"]} == {"head"} | {
        f"layers.{layer}.{name}" for layer in range(3) for name in ("qkv", "o", "gate_up", "down")
    }


def test_threads_do_not_change_what_is_measured(models, collected):
    job = models.job(collected.model, "--weights", "f32", *OPTIONS)
    other = collected.folder / "one-thread.json"
    job.run("--score", collected.folder / "texts.jsonl", "--collect-activations", other, "--threads", 1).check()
    held, again = (json.loads(path.read_text(encoding="utf-8")) for path in (collected.path, other))
    assert held["inputs"] == again["inputs"] and held["matrices"]["hash"] == again["matrices"]["hash"]


@pytest.mark.parametrize("method", ["awq", "gptq", "awq+gptq"])
def test_calibrated_weights_come_closer_than_the_nearest(models, collected, method):
    expected = reference.from_hugging_face(collected.hf_folder).logits(PROMPT + FORCED)[len(PROMPT) - 1 : -1]
    options = ("--weights", "q3_1", "--kv-dtype", "f32")
    nearest = forced_logits(models.job(collected.model, *options, *OPTIONS))
    job = calibrated(collected, method, *options, "--method", method, "--pack", collected.folder / f"{method}.pack")
    assert np.abs(forced_logits(job) - expected).mean() < np.abs(nearest - expected).mean()


def test_factors_cancel_where_they_are_folded(collected):
    """With 8 bits, all that could be wrong about AWQ is where its factors went."""
    expected = reference.from_hugging_face(collected.hf_folder).logits(PROMPT + FORCED)[len(PROMPT) - 1 : -1]
    options = ("--weights", "q8", "--kv-dtype", "f32", "--method", "awq", "--pack", collected.folder / "q8.pack")
    # A factor in a wrong place shifts logits by about 1.
    assert np.abs(forced_logits(calibrated(collected, "awq-q8", *options)) - expected).mean() < 0.1


def test_a_mix_keeps_its_budget_and_runs_on_any_layout(collected):
    options = ("--weights", "auto:4.75bpw", "--kv-dtype", "f32")
    logits = []
    for tp in (1, 2, 3):
        job = calibrated(collected, f"mix-{tp}", *options, "--pack", collected.folder / f"mix-{tp}.pack", tp=tp)
        logits.append(forced_logits(job))
        shown = json.loads(llmir.run([llmir.program("llmir-inspect"), "show", job.plan, "--json"]).check().stdout)
        bits = count = 0
        for weight in shown["weights"]:
            tensors = [shown["tensors"][piece] for piece in weight["pieces"]]
            if int(tensors[0]["rows"]) > 1:
                values = sum(int(tensor["rows"]) * int(tensor["columns"]) for tensor in tensors)
                bits += values * quantization.BITS[weight["dtype"]]
                count += values
        assert 4.6 < bits / count <= 4.75
        assert "packed" in [file.get("format", "gguf") for file in shown["files"]]
        assert {weight.get("method", "") for weight in shown["weights"]} >= {"gptq"}
    np.testing.assert_allclose(logits[1], logits[0], atol=1e-3)
    np.testing.assert_allclose(logits[2], logits[0], atol=1e-3)


def test_a_mix_of_nearest_values_needs_no_packed_file(collected):
    job = calibrated(collected, "mix-rtn", "--weights", "auto:5bpw", "--method", "rtn")
    assert not list(job.folder.glob("*.pack"))
    assert np.isfinite(forced_logits(job)).all()


def refusal(collected, *options):
    command = [llmir.program("llmir-plan"), collected.model, "-o", collected.folder / "refused.fb", *OPTIONS, *options]
    result = llmir.run(command)
    assert result.status != 0 and len(result.error_lines()) == 1 and not (collected.folder / "refused.fb").exists()
    return result.error_lines()[0]


def test_wrong_requests_are_refused_in_one_line(models, collected):
    activations = ("--activations", collected.path)
    assert "--activations" in refusal(collected, "--weights", "auto:4.5bpw", "--pack", "x.pack")
    assert "--pack" in refusal(collected, "--weights", "auto:4.5bpw", *activations)
    assert "auto:4.5bpw" in refusal(collected, "--weights", "auto:4.5", *activations)
    assert "fewest" in refusal(collected, "--weights", "auto:1bpw", *activations, "--pack", "x.pack")
    assert "awq+gptq" in refusal(collected, "--weights", "q4", "--method", "best", *activations)
    assert "keep" in refusal(collected, "--weights", "keep", "--method", "gptq", *activations, "--pack", "x.pack")
    _, other = models.random("tiny-test")
    refused = llmir.run([llmir.program("llmir-plan"), other, "-o", collected.folder / "refused.fb", "--weights", "auto:5bpw", *activations, "--method", "rtn"])
    assert refused.status != 0 and "another checkpoint" in refused.error_lines()[0]


def test_collecting_needs_floats_on_one_rank(models, collected):
    for options, tp, word in ((("--weights", "q8"), 1, "--weights f32"), (("--weights", "f32"), 2, "--tp 1")):
        job = models.job(collected.model, *options, *OPTIONS, tp=tp)
        path = collected.folder / "refused.json"
        result = job.run("--score", collected.folder / "texts.jsonl", "--collect-activations", path)
        assert result.status != 0 and word in result.error_lines()[0]
        assert not list(collected.folder.glob("refused.json*"))


def test_a_missing_or_damaged_packed_file_is_named(collected):
    pack = collected.folder / "damage.pack"
    job = calibrated(collected, "damage", "--weights", "q4_0", "--method", "gptq", "--pack", pack)
    good = pack.read_bytes()
    for bad in (good[:-64], good[:100] + bytes([good[100] ^ 1]) + good[101:], good[:-3000] + bytes([good[-3000] ^ 1]) + good[-2999:]):
        pack.write_bytes(bad)
        result = job.run("--prompts", llmir.write_jsonl(job.folder / "p.jsonl", [{"prompt_ids": [1]}]))
        assert result.status != 0 and "damage.pack" in result.error_lines()[0]
    pack.unlink()
    result = job.run("--prompts", job.folder / "p.jsonl")
    assert result.status != 0 and "--pack" in result.error_lines()[0]


def test_the_packed_file_stays_with_the_plan_when_the_checkpoint_moves(collected, tmp_path):
    pack = collected.folder / "moved.pack"
    job = calibrated(collected, "moved", "--weights", "q4_0", "--method", "gptq", "--pack", pack)
    expected = forced_logits(job)
    shutil.copy(collected.model, tmp_path / "elsewhere.gguf")
    prompts = llmir.write_jsonl(tmp_path / "p.jsonl", [{"prompt_ids": PROMPT, "force_ids": FORCED}])
    job.run("--prompts", prompts, "--logits", tmp_path, "--max-tokens", len(FORCED), "--ignore-eos", "--model", tmp_path / "elsewhere.gguf", "--output", tmp_path / "o.jsonl").check()  # fmt: skip
    np.testing.assert_array_equal(np.load(tmp_path / "0.npy"), expected)


def perplexity_rows(model, folder, names):
    bench = quantization.Bench(llmir.BUILD, model, folder)
    bench.tokenize()
    bench.collect()
    rows = {name: bench.row(name) for name in names}
    return rows, {name: row["perplexity"] for name, row in rows.items()}


@pytest.mark.slow
def test_perplexity_of_smollm2(smollm2, tmp_path):
    """Two of the figures of docs/quantization.md (perf/quantization.py makes all)."""
    rows, perplexity = perplexity_rows(smollm2, tmp_path, ("q8", "auto:5.349 gptq"))
    f32, q4_0 = quantization.REFERENCE["f32"], quantization.REFERENCE["q4_0"]
    assert perplexity["q8"] <= 18.37
    # At the size of llama.cpp's q4_0 file, at least four fifths of what that loses are kept.
    assert rows["auto:5.349 gptq"]["bits_per_weight"] == pytest.approx(quantization.Q4_0_FILE_BITS, rel=0.01)
    assert perplexity["auto:5.349 gptq"] <= f32 + 0.2 * (q4_0 - f32)


@pytest.mark.long
def test_perplexity_of_smollm2_by_method(smollm2, tmp_path):
    rows, perplexity = perplexity_rows(smollm2, tmp_path, ("q4_0 rtn", "q4_0 awq", "q4_0 gptq", "q4_1_64 gptq", "auto:4.5 gptq", "auto:4.5 rtn"))
    assert perplexity["q4_0 awq"] < perplexity["q4_0 rtn"]
    assert perplexity["q4_0 gptq"] < perplexity["q4_0 rtn"]
    assert 4.455 <= rows["auto:4.5 gptq"]["bits_per_weight"] <= 4.5
    assert perplexity["auto:4.5 gptq"] < perplexity["auto:4.5 rtn"]
    # A mix is at least as good as one type for all of its size.
    assert perplexity["auto:4.5 gptq"] <= min(perplexity["q4_1_64 gptq"], perplexity["q4_0 gptq"])
