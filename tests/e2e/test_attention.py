"""Attention as the plan chooses it: types of keys and values, windows, forms, the fused step. Logits against a
double-precision forward pass, bits against each other where the order of sums is kept."""

import json

import llmir
import numpy as np
import pytest
import reference
from test_random_models import FORCED, PROMPT, expected_logits, forced_logits, relative_error

BASE = ("--context", 256, "--max-batch", 4, "--block-size", 16, "--prefill-chunk", 48, "--weights", "f32")
WINDOW = 24


def shown(job):
    return json.loads(llmir.run([llmir.program("llmir-inspect"), "show", job.plan, "--json"]).check().stdout)


def steps_of(plan, kind):
    """Steps of the first stage's program of this kind."""
    programs = plan["replicas"][0]["stages"][0]["programs"]
    return next(program["steps"] for program in programs if program["kind"] == kind)


# Relative error of the logits, measured on this model and doubled.
@pytest.mark.sanitizer
@pytest.mark.parametrize(("dtype", "bound"), [("f32", 1e-5), ("bf16", 6e-4), ("int8", 2e-3), ("fp8", 1e-2)])
def test_short_keys_and_values_stay_within_the_error_of_their_type(models, dtype, bound):
    folder, _ = models.random("tiny-test")
    expected = expected_logits(reference.from_hugging_face(folder))
    job = models.job(folder, *BASE, "--kv-dtype", dtype)
    error = relative_error(forced_logits(job), expected)
    assert bound / 20 < error < bound or (dtype == "f32" and error < bound)
    split = models.job(folder, *BASE, "--kv-dtype", dtype, tp=2)
    assert relative_error(forced_logits(split), expected) < bound


def test_an_int8_cache_takes_the_bytes_that_it_says(models):
    folder, _ = models.random("tiny-test")
    plans = {dtype: shown(models.job(folder, *BASE, "--kv-dtype", dtype))["kv"] for dtype in ("bf16", "int8", "fp8")}
    head = plans["bf16"]["head_dim"] * 16 * 2
    assert [plans[dtype]["head_bytes"] for dtype in plans] == [2 * head, head + 2 * 16 * 4, head]


@pytest.mark.sanitizer
@pytest.mark.parametrize("words", [(), ("max_window_layers=1",)])
def test_a_models_window_is_honoured(models, words):
    """Prefill in chunks and decode, both past the window; both formats where GGUF can say it."""
    folder, file = models.random("tiny-test", f"sliding_window={WINDOW}", *words)
    model = reference.from_hugging_face(folder)
    expected = expected_logits(model)
    everything = reference.Model({**model.config, "sliding_window": None}, model.weights)
    assert relative_error(expected, expected_logits(everything)) > 0.05
    for checkpoint in (folder,) if words else (folder, file):
        job = models.job(checkpoint, *BASE)
        np.testing.assert_allclose(forced_logits(job), expected, atol=2e-4)
    layers = shown(models.job(folder, *BASE))["model"]["attention_windows"]
    full = 1 if words else 0
    assert layers == [0] * full + [WINDOW] * (len(layers) - full)


def test_a_window_can_be_imposed(models):
    folder, _ = models.random("tiny-test")
    model = reference.from_hugging_face(folder)
    expected = model.logits(PROMPT + FORCED, window=WINDOW)[len(PROMPT) - 1 : -1]
    job = models.job(folder, *BASE, "--attention", f"auto,window={WINDOW}")
    np.testing.assert_allclose(forced_logits(job), expected, atol=2e-4)


def test_chunks_and_blocks_change_no_bit_of_a_window(models):
    folder, _ = models.random("tiny-test", f"sliding_window={WINDOW}")
    base = ("--context", 256, "--max-batch", 4, "--weights", "f32")
    one, *others = (
        forced_logits(models.job(folder, *base, "--prefill-chunk", chunk, "--block-size", block))
        for chunk, block in ((128, 16), (17, 16), (48, 32))
    )
    for logits in others:
        np.testing.assert_array_equal(logits, one)


def test_a_window_needs_few_blocks_however_long_the_text(models, tmp_path):
    """The plan's own number of blocks suffices for a batch of full sequences, and no more are ever in use."""
    folder, _ = models.random("tiny-test", f"sliding_window={WINDOW}", "context=2048")
    job = models.job(folder, "--context", 1024, "--max-batch", 2, "--block-size", 16, "--prefill-chunk", 32, "--weights", "f32")
    blocks = shown(job)["kv"]["blocks"]
    # WINDOW - 1 tokens before a chunk of 32, which begin and end anywhere in blocks of 16.
    each = (WINDOW - 1 + 32 + 14) // 16 + 1
    assert blocks == 2 * each
    prompts = [{"prompt_ids": [(i * 37 + s) % 384 for i in range(700)], "max_tokens": 300} for s in range(3)]
    report = tmp_path / "report.json"
    lines = job.generate(prompts, "--ignore-eos", "--report", report)
    assert [len(line["ids"]) for line in lines] == [300] * 3
    engine = json.loads(report.read_text())["engine"]
    assert each < engine["peak_kv_blocks"] <= blocks
    ids = prompts[0]["prompt_ids"] + lines[0]["ids"]
    (logprobs,) = job.score([ids])
    model = reference.from_hugging_face(folder)
    logits = model.logits(ids)
    logits -= logits.max(axis=-1, keepdims=True)
    expected = (logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True)))[np.arange(len(ids) - 1), ids[1:]]
    np.testing.assert_allclose(logprobs, expected, atol=1e-3)


FORMS = ("flash", "fused-softmax", "masked", "standard", "flash,no-share-kv", "fused-softmax,no-share-kv")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_computes_attention(models, form):
    folder, _ = models.random("tiny-test", f"sliding_window={WINDOW}")
    expected = expected_logits(reference.from_hugging_face(folder))
    job = models.job(folder, *BASE, "--attention", form)
    np.testing.assert_allclose(forced_logits(job), expected, atol=2e-4)
    name, _, alone = form.partition(",")
    choice = next(step["attention"] for step in steps_of(shown(job), "mixed") if step["kind"] == "paged_attention")
    assert choice["form"] == name.replace("-", "_")
    assert choice["share_kv"] == (not alone)
    assert choice["window"] == WINDOW


def test_a_softcap_is_honoured(models):
    _, file = models.random("tiny-test", "attention_softcap=0.5")
    model = reference.from_gguf(file)
    expected = expected_logits(model)
    plain = reference.Model({**model.config, "attention_softcap": None}, model.weights)
    plain.frequencies = model.frequencies
    assert relative_error(expected, expected_logits(plain)) > 0.02
    for form in ("flash", "masked"):
        np.testing.assert_allclose(forced_logits(models.job(file, *BASE, "--attention", form)), expected, atol=2e-4)


@pytest.mark.parametrize("dtype", ["bf16", "int8", "fp8"])
def test_the_fused_step_gives_the_bits_of_the_two(models, dtype):
    """Decode programs have the fused step, the others have the two."""
    folder, _ = models.random("tiny-test")
    job = models.job(folder, *BASE, "--kv-dtype", dtype)
    kinds = [step["kind"] for step in steps_of(shown(job), "decode")]
    assert "append_attend" in kinds and "rope_append" not in kinds and "paged_attention" not in kinds
    decoded = forced_logits(job)
    # The same ids as a prompt: all rows go through rope_append and paged_attention.
    prompt = {"prompt_ids": PROMPT + FORCED[:-1], "force_ids": FORCED[-1:]}
    _, (last,) = job.generate_with_logits([prompt], "--max-tokens", 1, "--ignore-eos")
    np.testing.assert_array_equal(decoded[-1], last[0])


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--attention", "fast", 'fast: "fast", expected auto'),
        ("--attention", "flash,window=0", '"window=0"'),
        ("--attention", "flash,share", '"share"'),
        ("--kv-dtype", "int4", "--kv-dtype int4: expected f32, bf16, int8 or fp8"),
    ],
)
def test_wrong_choices_are_refused(models, tmp_path, option, value, said):
    folder, _ = models.random("tiny-test")
    result = llmir.run([llmir.program("llmir-plan"), folder, "-o", tmp_path / "plan.fb", option, value])
    assert result.status != 0
    (line,) = result.error_lines()
    assert said in line
