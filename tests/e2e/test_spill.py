"""Cached KV blocks that memory has no room for: in a file, and back."""

import json

import llmir
import pytest

OPTIONS = ("--weights", "keep", "--context", 256, "--block-size", 16, "--prefill-chunk", 64, "--max-batch", 1, "--kv-blocks", 24)


def prompt(seed, *last):
    return {"prompt_ids": [*((seed * 101 + i * 37 + i * i % 11) % 520 for i in range(160)), *last], "max_tokens": 6}


# By the time the first come again, others have taken their blocks; further ahead than the engine looks for cached prefixes.
PROMPTS = [prompt(seed) for seed in range(20)] + [prompt(0, 5), prompt(1, 5), prompt(2, 5)]


@pytest.fixture(scope="module")
def model(models):
    return models.random("tiny-test", "layers=8", "query_heads=8", "kv_heads=4", "hidden=128", "mlp_columns=520", "vocabulary=520")[1]


@pytest.mark.parametrize("layout", [{}, {"tp": 3}, {"pp": 2}, {"tp": 1, "dp": 2}], ids=str)
def test_prefixes_come_back_from_the_file(models, model, tmp_path, layout):
    # In 8 bits: sooner read than computed, by what is assumed of a file before the first time.
    job = models.job(model, *OPTIONS, "--steps-in-flight", 1, "--kv-dtype", "int8", **layout)
    expected = job.generate(PROMPTS, "--ignore-eos")
    report = tmp_path / "report.json"
    given = job.generate(PROMPTS, "--ignore-eos", "--spill", tmp_path, "--report", report)
    assert [line["ids"] for line in given] == [line["ids"] for line in expected]
    engine = json.loads(report.read_text())["engine"]
    assert engine["spilled_blocks"] > 50 and engine["held_kv_blocks"] == 0, engine
    assert engine["restores"] >= 1 and engine["restored_tokens"] >= 100, engine
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_a_small_file_keeps_what_was_used_last(models, model, tmp_path):
    job = models.job(model, *OPTIONS, "--steps-in-flight", 1)
    report = tmp_path / "report.json"
    # K and V of 16 tokens in 32 bits, 8 layers of 4 KV heads: 64 KiB a block, so 12 blocks.
    given = job.generate(PROMPTS, "--ignore-eos", "--spill", tmp_path, "--spill-bytes", "768KB", "--report", report)
    assert [line["ids"] for line in given] == [line["ids"] for line in job.generate(PROMPTS, "--ignore-eos")]
    assert json.loads(report.read_text())["engine"]["spilled_blocks"] > 12


def test_folders_and_sizes_that_will_not_do_are_named(models, model, tmp_path):
    job = models.job(model, *OPTIONS, "--steps-in-flight", 1)
    prompts = llmir.write_jsonl(tmp_path / "prompts.jsonl", PROMPTS[:1])
    for options, message in [
        (("--spill", tmp_path / "missing"), "missing: no such folder"),
        (("--spill", tmp_path, "--spill-bytes", 100), "--spill-bytes 100: a KV block has 65536 bytes; give at least as many"),
        (("--spill-bytes", 100), "--spill"),
    ]:
        refused = job.run("--prompts", prompts, *options)
        assert refused.status != 0 and refused.seconds < llmir.REFUSAL_S
        assert message in refused.stderr, refused.stderr
