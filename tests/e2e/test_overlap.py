"""How ranks of a stage share out steps of many tokens (`--overlap`): whatever it is, the logits are those of one rank, and
bit for bit those of the same layout without it."""

import json

import llmir
import numpy as np
import pytest

# One sequence per step, so that steps of 1, 2 and 3 tokens are run: halves and shares that are empty on some ranks.
OPTIONS = ("--context", 128, "--max-batch", 1, "--block-size", 16, "--prefill-chunk", 48)
LENGTHS = (1, 2, 3, 5, 100)
LAYOUTS = {"tp2": (2, 1), "tp3": (3, 1), "pp2": (1, 2), "tp2-pp2": (2, 2)}
OVERLAPS = ("none", "halves", "scatter", "auto")
STEP_KINDS = {
    "none": set(),
    "halves": {"all_reduce_start"},
    "scatter": {"reduce_scatter_start", "all_gather_start"},
}  # fmt: skip


def ids(count):
    return [int(i) for i in (np.arange(count) * 37 + 11) % 384]


def outputs(job):
    """Logits of prompts of all lengths with some forced ids after them, and scores of texts of all lengths."""
    forced = ids(4)
    prompts = [{"prompt_ids": ids(count), "force_ids": forced} for count in LENGTHS]
    _, logits = job.generate_with_logits(prompts, "--max-tokens", len(forced), "--ignore-eos")
    scores = job.score([ids(count + 1) for count in LENGTHS])
    return np.concatenate(logits), np.concatenate(scores)


def program_of(job, kind):
    shown = json.loads(llmir.run([llmir.program("llmir-inspect"), "show", job.plan, "--json"]).check().stdout)
    (program,) = [p for p in shown["replicas"][0]["stages"][0]["programs"] if p["kind"] == kind]
    return program


QUICK = {("tp2", "Q8_0"), ("tp3", "F32")}
CASES = [pytest.param(layout, stored, marks=[] if (layout, stored) in QUICK else pytest.mark.slow)
         for layout in LAYOUTS for stored in ("F32", "Q8_0")]  # fmt: skip


@pytest.mark.parametrize(("layout", "stored"), CASES)
def test_overlap_keeps_every_bit(models, layout, stored):
    _, file = models.random("tiny-test", "query_heads=6", "kv_heads=2", "hidden=192", gguf_type=stored)
    tp, pp = LAYOUTS[layout]
    one = outputs(models.job(file, "--weights", "keep", "--kv-dtype", "f32", *OPTIONS))
    base = None
    for overlap in OVERLAPS:
        job = models.job(file, "--weights", "keep", "--kv-dtype", "f32", "--overlap", overlap, *OPTIONS, tp=tp, pp=pp)
        split = outputs(job)
        if stored == "F32":
            np.testing.assert_allclose(split[0], one[0], atol=2e-4)
            np.testing.assert_allclose(split[1], one[1], atol=2e-4)
        base = base or split
        np.testing.assert_array_equal(split[0], base[0], err_msg=overlap)
        np.testing.assert_array_equal(split[1], base[1], err_msg=overlap)


@pytest.mark.parametrize("overlap", STEP_KINDS)
def test_the_plan_says_how_steps_are_shared_out(models, overlap):
    _, file = models.random("tiny-test", gguf_type="Q8_0")
    job = models.job(file, "--overlap", overlap, *OPTIONS, tp=2)
    mixed, decode = program_of(job, "mixed"), program_of(job, "decode")
    kinds = {step["kind"] for step in mixed["steps"]}
    assert STEP_KINDS[overlap] <= kinds
    assert ("reduce_scatter_start" in kinds) == (overlap == "scatter")
    rows = {buffer["rows"] for buffer in mixed["buffers"]}
    assert ("first_half" in rows) == (overlap == "halves")
    assert ("share" in rows) == (overlap == "scatter")
    # Norms give int8, and so they travel: 40 bytes for 32 values.
    if overlap == "scatter":
        gathered = [mixed["buffers"][step["inputs"][0]] for step in mixed["steps"] if step["kind"] == "all_gather_start"]
        assert "q8_rows" in {buffer["dtype"] for buffer in gathered}
    assert {buffer["rows"] for buffer in decode["buffers"]} <= {"tokens", "sampled"}


def test_a_wrong_overlap_is_refused(models, tmp_path):
    _, file = models.random("tiny-test")
    result = llmir.run([llmir.program("llmir-plan"), file, "-o", tmp_path / "plan.fb", "--overlap", "some"])
    assert result.status != 0
    assert "--overlap some: expected none, halves, scatter or auto" in result.stderr
