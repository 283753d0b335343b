"""The pool and the scheduler with real models: what is found, shared, swapped, computed again or guessed changes no bit."""

import json

import numpy as np
import pytest

OPTIONS = ("--context", 192, "--max-batch", 4, "--block-size", 16, "--prefill-chunk", 24, "--weights", "f32")
LAYOUTS = [{}, {"tp": 2}, {"pp": 2}]


def ids(seed, count):
    return [int(i) for i in np.random.default_rng(seed).integers(3, 384, count)]


@pytest.fixture(scope="module")
def tiny(models):
    return models.random("tiny-test", "query_heads=6", "kv_heads=2", "hidden=192")[0]


def statistics(path):
    return json.loads(path.read_text())["engine"]


@pytest.mark.sanitizer
@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_logits_have_the_same_bits_with_and_without_a_hit(models, tiny, layout):
    """Prompts that share beginnings, and a conversation that goes on from what was decoded before."""
    job = models.job(tiny, *OPTIONS, **layout)
    first = {"prompt_ids": ids(1, 70), "force_ids": ids(2, 30)}
    goes_on = {"prompt_ids": first["prompt_ids"] + first["force_ids"] + ids(3, 9), "force_ids": ids(4, 12)}
    sibling = {"prompt_ids": first["prompt_ids"][:50] + ids(5, 30), "force_ids": ids(6, 12)}
    # One after the other: enough before it to fill the batch of each step in flight until the first has ended.
    others = ({"prompt_ids": ids(10 + i, 20), "force_ids": ids(20 + i, 60)} for i in range(4 * layout.get("pp", 1)))
    prompts = [first, *others, goes_on, sibling]
    report = job.new_folder() / "report.json"
    _, got = job.generate_with_logits(prompts, "--report", report)
    _, expected = job.generate_with_logits(prompts, "--forget-prefixes")
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    # 99 tokens of the first one were computed: 6 blocks; of the sibling's 50 tokens 3.
    assert statistics(report)["reused_prompt_tokens"] == 96 + 48
    assert statistics(report)["held_kv_blocks"] == 0


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
@pytest.mark.parametrize("swap", [0, 40])
def test_answers_are_the_same_in_a_pool_that_is_too_small(models, tiny, layout, swap):
    prompts = [{"prompt_ids": ids(i, 30), "max_tokens": 110, "temperature": 0.8, "seed": i} for i in range(7)]
    roomy = models.job(tiny, *OPTIONS, **layout).generate(prompts, "--ignore-eos")
    job = models.job(tiny, *OPTIONS, "--kv-blocks", 14, **layout)
    report = job.new_folder() / "report.json"
    lines = job.generate(prompts, "--ignore-eos", "--swap-blocks", swap, "--report", report)
    assert [line["ids"] for line in lines] == [line["ids"] for line in roomy]
    engine = statistics(report)
    assert engine["preempted_to_recompute"] + engine["preempted_to_swap"] > 0
    assert (engine["preempted_to_swap"] > 0) == (swap > 0)
    assert engine["held_kv_blocks"] == 0


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_guesses_change_no_bit(models, tiny, layout):
    job = models.job(tiny, *OPTIONS, **layout)
    pattern = ids(1, 7) * 9  # a prompt that repeats itself: guesses are made from the start
    prompts = [{"prompt_ids": pattern, "max_tokens": 80}, {"prompt_ids": ids(2, 5), "max_tokens": 100, "temperature": 0.7, "seed": 3}]
    expected_lines, expected = job.generate_with_logits(prompts, "--ignore-eos")
    report = job.new_folder() / "report.json"
    lines, got = job.generate_with_logits(prompts, "--ignore-eos", "--speculate", 3, "--report", report)
    assert [line["ids"] for line in lines] == [line["ids"] for line in expected_lines]
    for one, other in zip(got, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    engine = statistics(report)
    assert engine["drafted_tokens"] > 0
    assert engine["accepted_tokens"] <= engine["drafted_tokens"]


def test_several_answers_are_those_of_single_requests(models, tiny):
    """The first draws as a request for one does; the prompt is computed once."""
    job = models.job(tiny, *OPTIONS)
    prompt = {"prompt_ids": ids(1, 40), "max_tokens": 20, "temperature": 1.0, "seed": 7}
    report = job.new_folder() / "report.json"
    (line,) = job.generate([{**prompt, "n": 3}], "--ignore-eos", "--report", report)
    (single,) = job.generate([prompt], "--ignore-eos")
    answers = [answer["ids"] for answer in line["answers"]]
    assert answers[0] == single["ids"]
    assert len({tuple(answer) for answer in answers}) == 3
    assert statistics(report)["copied_kv_blocks"] == 2
    (best,) = job.generate([{**prompt, "n": 1, "best_of": 3}], "--ignore-eos")
    scores = [job.score([prompt["prompt_ids"] + answer])[0][-20:].mean() for answer in answers]
    assert best["ids"] == answers[int(np.argmax(scores))]


def test_an_answer_goes_on_from_the_ids_that_it_had(models, tiny):
    job = models.job(tiny, *OPTIONS)
    prompt = {"prompt_ids": ids(1, 40), "max_tokens": 40, "temperature": 1.0, "seed": 7}
    (whole,) = job.generate([prompt], "--ignore-eos")
    (resumed,) = job.generate([{**prompt, "resume_ids": whole["ids"][:17]}], "--ignore-eos")
    assert resumed["ids"] == whole["ids"]


def test_windows_and_reuse_go_together(models, tiny):
    job = models.job(tiny, *OPTIONS, "--attention", "auto,window=40")
    first = {"prompt_ids": ids(1, 33), "max_tokens": 4}
    fillers = [{"prompt_ids": ids(10 + i, 20), "max_tokens": 60} for i in range(4)]
    prompts = [first, *fillers, {"prompt_ids": ids(1, 33) + ids(2, 60), "max_tokens": 30}]
    report = job.new_folder() / "report.json"
    lines = job.generate(prompts, "--ignore-eos", "--report", report)
    forgetful = job.generate(prompts, "--ignore-eos", "--forget-prefixes")
    assert [line["ids"] for line in lines] == [line["ids"] for line in forgetful]
    assert statistics(report)["reused_prompt_tokens"] == 32
    assert statistics(report)["held_kv_blocks"] == 0
