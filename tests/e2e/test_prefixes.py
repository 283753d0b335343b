"""Pinned prefixes: answers have the same bits with and without, and less is computed."""

import json

import numpy as np
import pytest

OPTIONS = ("--context", 160, "--max-batch", 3, "--block-size", 16, "--prefill-chunk", 24, "--weights", "f32")
SYSTEM = [(37 * i + 11) % 384 for i in range(48)]
EXAMPLES = SYSTEM + [(53 * i + 7) % 384 for i in range(32)]  # begins with the other one


def prompt(start, *rest):
    return {"prompt_ids": [*start, *rest], "force_ids": [(101 * i + 3) % 384 for i in range(20)]}


# Beginning with the shorter, the longer, neither; with all of one and a token; with one alone (a token must be left, and
# whole blocks are shared); with one but for its last id.
PROMPTS = [
    prompt(SYSTEM, 5, 6, 7),
    prompt(EXAMPLES, 8, 9),
    prompt([1, 2, 3], 4),
    prompt(SYSTEM, 5),
    prompt(SYSTEM),
    prompt(EXAMPLES[:-1], 383),
    prompt(EXAMPLES),
]
REUSED = [48, 80, 0, 48, 32, 64, 64]


@pytest.fixture(scope="module")
def workload(tmp_path_factory):
    path = tmp_path_factory.mktemp("workload") / "workload.yaml"
    path.write_text(
        "name: prefixes\nbatch: 3\nrequests:\n  - {prompt: 90, answer: 20}\nprefixes:\n"
        f"  - {{name: system, share: 1.0, ids: {SYSTEM}}}\n  - {{name: examples, share: 0.4, ids: {EXAMPLES}}}\n"
    )
    return path


@pytest.mark.parametrize("layout", [{}, {"tp": 2}, {"tp": 1, "pp": 2}], ids=str)
def test_answers_have_the_same_bits(models, workload, layout):
    folder, _ = models.random("tiny-test", "query_heads=6", "kv_heads=2", "hidden=192")
    plain = models.job(folder, *OPTIONS, **layout)
    _, expected = plain.generate_with_logits(PROMPTS)
    shared = models.job(folder, *OPTIONS, "--workload", workload, **layout)
    report = shared.folder / "report.json"
    _, got = shared.generate_with_logits(PROMPTS, "--report", report)
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    engine = json.loads(report.read_text())["engine"]
    # The longer one's first blocks are those of the shorter one.
    assert engine["pinned_tokens"] == len(EXAMPLES)
    assert engine["prefix_hits"] == sum(tokens > 0 for tokens in REUSED)
    assert engine["reused_prompt_tokens"] == sum(REUSED)
    assert engine["prompt_tokens"] == sum(len(p["prompt_ids"]) for p in PROMPTS)


def test_admission_counts_only_what_is_not_shared(models, workload):
    """Three sequences of 7 blocks don't fit into 16 together, but they do where 5 blocks of each are the same."""
    folder, _ = models.random("tiny-test")
    job = models.job(folder, *OPTIONS, "--workload", workload, "--kv-blocks", 16)
    prompts = [prompt(EXAMPLES, i) for i in range(6)]
    report = job.folder / "report.json"
    lines = job.generate(prompts, "--report", report)
    assert [len(line["ids"]) for line in lines] == [20] * 6
    engine = json.loads(report.read_text())["engine"]
    # Of each sequence's 100 tokens 80 are shared, in 5 blocks; the others take 2.
    assert engine["peak_kv_blocks"] == 5 + 3 * 2
