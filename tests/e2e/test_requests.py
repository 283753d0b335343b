"""What llmir-exec does with requests: batches, sampling, stop strings, files it writes, text it streams."""

import json
import os

import llmir
import numpy as np
import pytest

OPTIONS = ("--weights", "f32", "--context", 256, "--max-batch", 4, "--block-size", 16, "--prefill-chunk", 32)
OUTPUT_FIELDS = {"prompt_ids", "ids", "text", "finish_reason", "ttft_ms", "decode_ms"}


def ids(seed, count):
    return [int(i) for i in np.random.default_rng(seed).integers(3, 384, count)]


# More prompts than fit into a batch, of unlike lengths: some of one token, some of several prefill chunks.
PROMPTS = [{"prompt_ids": ids(i, length)} for i, length in enumerate([1, 70, 5, 33, 100, 2, 64, 17, 31, 90])]


@pytest.fixture(scope="module")
def tiny(models):
    return models.random("tiny-test")[0]


@pytest.fixture(scope="module", params=[(1, 1), (2, 2)], ids=["1-rank", "tp2-pp2"])
def job(request, models, tiny):
    tp, pp = request.param
    return models.job(tiny, *OPTIONS, tp=tp, pp=pp)


@pytest.fixture(scope="module")
def one_rank(models, tiny):
    return models.job(tiny, *OPTIONS)


@pytest.fixture(scope="module")
def chat(models, smollm2):
    # bf16: with activations in int8 (any 4- or 8-bit weights, here as in llama.cpp) the model doesn't name Paris.
    return models.job(smollm2, "--weights", "bf16", "--context", 512, "--max-batch", 4)


# ------------------------------------------------------------------------------------------------------------------ batches


@pytest.mark.sanitizer
def test_batched_logits_equal_single_ones(job):
    options = ("--max-tokens", 12, "--ignore-eos")
    forced = [{**prompt, "force_ids": ids(100 + i, 12)} for i, prompt in enumerate(PROMPTS)]
    lines, batched = job.generate_with_logits(forced, *options)
    assert [line["prompt_ids"] for line in lines] == [prompt["prompt_ids"] for prompt in PROMPTS]
    assert [line["ids"] for line in lines] == [prompt["force_ids"] for prompt in forced]
    for prompt, expected in list(zip(forced, batched, strict=True))[:4]:
        _, (alone,) = job.generate_with_logits([prompt], *options)
        np.testing.assert_allclose(alone, expected, atol=1e-4)


def test_lines_come_in_the_order_of_the_prompts_whatever_ends_first(job):
    prompts = [{**prompt, "max_tokens": 1 + 7 * (i % 3)} for i, prompt in enumerate(PROMPTS)]
    lines = job.generate(prompts, "--ignore-eos")
    assert [line["prompt_ids"] for line in lines] == [prompt["prompt_ids"] for prompt in prompts]
    assert [len(line["ids"]) for line in lines] == [prompt["max_tokens"] for prompt in prompts]


@pytest.mark.sanitizer
def test_more_sequences_than_kv_blocks_still_finish(models, tiny):
    """Blocks for two sequences at full length, ten sequences: they wait for each other."""
    job = models.job(tiny, *OPTIONS, "--kv-blocks", 32)
    lines = job.generate(PROMPTS, "--max-tokens", 60, "--ignore-eos")
    roomy = models.job(tiny, *OPTIONS).generate(PROMPTS, "--max-tokens", 60, "--ignore-eos")
    assert [line["ids"] for line in lines] == [line["ids"] for line in roomy]


def test_an_answer_ends_where_the_context_ends(job):
    (line,) = job.generate([{"prompt_ids": ids(7, 250)}], "--max-tokens", 100, "--ignore-eos")
    assert line["finish_reason"] == "length"
    # The last id is drawn from the last position of the context and needs no place of its own.
    assert len(line["ids"]) == 7


def test_a_prompt_may_fill_the_context(job):
    (line,) = job.generate([{"prompt_ids": ids(8, 255)}], "--max-tokens", 1)
    assert len(line["ids"]) == 1


# ----------------------------------------------------------------------------------------------------------------- sampling


def test_greedy_is_the_default_and_takes_the_best_logit(one_rank):
    (line,), (logits,) = one_rank.generate_with_logits(PROMPTS[:1], "--max-tokens", 16, "--ignore-eos")
    assert line["ids"] == logits.argmax(axis=1).tolist()


def test_a_seed_reproduces_and_another_seed_differs(job):
    def draw(seed):
        return [line["ids"] for line in job.generate(
            PROMPTS[:4], "--temperature", 1.5, "--seed", seed, "--max-tokens", 24, "--ignore-eos")]  # fmt: skip

    first = draw(11)
    assert draw(11) == first
    assert draw(12) != first


def test_a_draw_does_not_depend_on_the_batch(one_rank):
    prompts = [{**prompt, "temperature": 1.0, "seed": 5 + i} for i, prompt in enumerate(PROMPTS)]
    together = one_rank.generate(prompts, "--max-tokens", 12, "--ignore-eos")
    alone = one_rank.generate(prompts[3:4], "--max-tokens", 12, "--ignore-eos")
    assert alone[0]["ids"] == together[3]["ids"]


def test_top_k_top_p_and_min_p_keep_only_likely_ids(one_rank):
    prompt = PROMPTS[1]
    _, (row,) = one_rank.generate_with_logits([prompt], "--max-tokens", 1)
    order = np.argsort(-row[0], kind="stable")
    probabilities = np.exp(row[0] - row[0].max())
    probabilities /= probabilities.sum()
    top_p = set(order[: int(np.searchsorted(np.cumsum(probabilities[order]), 0.5)) + 1].tolist())
    min_p = set(np.flatnonzero(probabilities >= 0.3 * probabilities.max()).tolist())

    def drawn(**sampling):
        lines = one_rank.generate([{**prompt, "temperature": 1.0, "seed": s, **sampling} for s in range(200)], "--max-tokens", 1)
        return {line["ids"][0] for line in lines}

    everything = drawn()
    assert drawn(top_k=3) == set(order[:3].tolist())
    assert drawn(top_p=0.5) <= top_p < everything | top_p
    assert drawn(min_p=0.3) <= min_p < everything | min_p
    assert drawn(top_k=1) == {int(order[0])}


def test_drawn_ids_follow_the_probabilities(one_rank):
    """Chi-squared over the four likeliest ids and the rest, 800 draws with fixed seeds."""
    prompt = PROMPTS[1]
    _, (row,) = one_rank.generate_with_logits([prompt], "--max-tokens", 1)
    probabilities = np.exp(row[0].astype(np.float64) - row[0].max())
    probabilities /= probabilities.sum()
    best = np.argsort(-probabilities)[:4]
    lines = one_rank.generate([{**prompt, "temperature": 1.0, "seed": s} for s in range(800)], "--max-tokens", 1)
    counts = np.array([sum(line["ids"][0] == i for line in lines) for i in best])
    observed = np.append(counts, 800 - counts.sum())
    expected = 800 * np.append(probabilities[best], 1 - probabilities[best].sum())
    assert ((observed - expected) ** 2 / expected).sum() < 23.5  # the 99.99 % quantile for 4 degrees of freedom


def test_a_low_temperature_is_nearly_greedy(one_rank):
    greedy = one_rank.generate(PROMPTS[:4], "--max-tokens", 8, "--ignore-eos")
    cold = one_rank.generate(PROMPTS[:4], "--max-tokens", 8, "--ignore-eos", "--temperature", 0.001, "--seed", 3)
    assert [line["ids"] for line in cold] == [line["ids"] for line in greedy]


# -------------------------------------------------------------------------------------------------------- ends of an answer


def test_a_stop_string_ends_the_answer_before_it(chat):
    prompt = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    (whole,) = chat.generate([prompt])
    assert "Paris" in whole["text"] and whole["finish_reason"] == "stop"
    word = whole["text"].split("Paris")[0]
    (cut,) = chat.generate([{**prompt, "stop": ["Paris"]}])
    assert cut["text"] == word and cut["finish_reason"] == "stop"
    # Over the border of two tokens, and by the command line's option.
    (cut,) = chat.generate([prompt], "--stop", whole["text"][5:15], "--stop", "never there")
    assert cut["text"] == whole["text"][:5]


def test_an_end_id_ends_the_answer_unless_ignored(chat):
    prompt = {"messages": [{"role": "user", "content": "What is the capital of France?"}]}
    (line,) = chat.generate([prompt])
    assert line["ids"][-1] == 2 and line["finish_reason"] == "stop"
    (line,) = chat.generate([prompt], "--ignore-eos", "--max-tokens", 30)
    assert len(line["ids"]) == 30 and line["finish_reason"] == "length"


def test_chat_template_and_system_message_are_applied(chat):
    messages = [{"role": "system", "content": "Answer with one word."}, {"role": "user", "content": "Two plus two?"}]
    written = "<|im_start|>system\nAnswer with one word.<|im_end|>\n<|im_start|>user\nTwo plus two?<|im_end|>\n<|im_start|>assistant\n"
    by_messages, by_text = chat.generate([{"messages": messages}, {"prompt": written}], "--max-tokens", 4)
    assert by_messages["prompt_ids"] == by_text["prompt_ids"]
    assert by_messages["ids"] == by_text["ids"]
    assert by_text["prompt_ids"][0] == 1, "special tokens in the text are recognised, none is added"


# --------------------------------------------------------------------------------------------------------- what is written


@pytest.mark.sanitizer
def test_output_lines_have_the_documented_fields(job):
    for line in job.generate(PROMPTS[:3], "--max-tokens", 5, "--ignore-eos"):
        assert line.keys() == OUTPUT_FIELDS
        assert isinstance(line["text"], str) and line["finish_reason"] == "length" and len(line["ids"]) == 5
        assert line["ttft_ms"] > 0 and line["decode_ms"] > 0


def test_output_folders_are_created(one_rank):
    folder = one_rank.new_folder()
    prompts = llmir.write_jsonl(folder / "prompts.jsonl", PROMPTS[:2])
    output, logits, report = folder / "a" / "b" / "output.jsonl", folder / "c" / "logits", folder / "d" / "report.json"
    one_rank.run(
        "--prompts", prompts, "--output", output, "--logits", logits, "--report", report, "--max-tokens", 2, "--ignore-eos"
    ).check()
    assert len(llmir.read_jsonl(output)) == 2
    assert len(list(logits.glob("*.npy"))) == 2
    assert json.loads(report.read_text())


def test_scores_are_the_log_probabilities_of_the_logits(job):
    """Longer than a prefill chunk; compared with the logits of the decode path."""
    sequence = ids(21, 90)
    (logprobs,) = job.score([sequence])
    prompt = {"prompt_ids": sequence[:1], "force_ids": sequence[1:]}
    _, (rows,) = job.generate_with_logits([prompt], "--max-tokens", 89, "--ignore-eos")
    rows = rows.astype(np.float64)
    expected = rows[np.arange(89), sequence[1:]] - np.logaddexp.reduce(rows, axis=1)
    np.testing.assert_allclose(logprobs, expected, atol=2e-4)


def test_many_scores_at_once_equal_single_ones(job):
    sequences = [ids(30 + i, length) for i, length in enumerate([2, 200, 31, 64, 90])]
    together = job.score(sequences)
    for sequence, expected in zip(sequences, together, strict=True):
        assert len(expected) == len(sequence) - 1
        np.testing.assert_allclose(job.score([sequence])[0], expected, atol=1e-4)


def test_one_rank_uses_all_cores_under_plain_mpirun(models, tiny):
    """mpirun binds the only rank to one core unless told otherwise; its threads must not share it."""
    job = models.job(tiny, *OPTIONS)
    report_path = job.new_folder() / "report.json"
    command = [llmir.program("llmir-exec"), job.plan, "--prompt", "the", "--max-tokens", 2, "--report", report_path]
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    llmir.run(["mpirun", "-n", 1, *command], environment=environment).check()
    (rank,) = json.loads(report_path.read_text())["ranks"]
    assert rank["threads"] == len(os.sched_getaffinity(0))


def storage_bytes_of_this_process():
    return int(next(line for line in open("/proc/self/io") if line.startswith("read_bytes")).split()[1])


def drop_from_page_cache(path):
    with open(path, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_report_states_bytes_consumed_and_read(models, tiny):
    """Each rank consumes its share of the file; what both need is fetched once."""
    job = models.job(tiny, *OPTIONS, tp=2)
    weights = tiny / "model.safetensors"
    size = weights.stat().st_size
    # How much of the file a cold read fetches here: all of it, or nothing where the folder lies in memory.
    drop_from_page_cache(weights)
    before = storage_bytes_of_this_process()
    weights.read_bytes()
    cold = storage_bytes_of_this_process() - before
    drop_from_page_cache(weights)

    report_path = job.new_folder() / "report.json"
    job.run("--prompt", "the", "--max-tokens", 4, "--ignore-eos", "--report", report_path).check()
    ranks = json.loads(report_path.read_text())["ranks"]
    assert len(ranks) == 2
    consumed = [rank["source_bytes_consumed"] for rank in ranks]
    assert all(0.3 * size < bytes_ < 0.75 * size for bytes_ in consumed), (consumed, size)
    assert 0.99 * size <= sum(consumed) <= 1.05 * size
    assert all(rank["source_bytes_shared"] > 0 for rank in ranks), "down and o are cut by columns"
    assert 0.9 * cold <= sum(rank["storage_bytes_read"] for rank in ranks) <= 1.1 * cold


@pytest.mark.sanitizer
def test_streamed_text_is_the_answer(one_rank):
    options = ("--max-tokens", 40, "--ignore-eos")
    (line,) = one_rank.generate([{"prompt": "the tiny model"}], *options)
    streamed = one_rank.run("--prompt", "the tiny model", "--quiet", *options).check().stdout
    assert streamed.rstrip("\n") == line["text"].rstrip("\n")


def test_closing_line_tells_speed_and_share_of_the_bandwidth(chat):
    result = chat.run("--chat", "--prompt", "What is the capital of France?").check()
    assert "Paris" in result.stdout
    closing = (result.stderr or result.stdout).splitlines()[-1]
    for word in ("first token", "tokens/s", "MB read per token", "% of the measured"):
        assert word in closing, closing


def test_inspect_shows_the_plan_to_people_and_programs(models):
    job = models.job(models.random("tiny-test")[1], *OPTIONS, tp=2, pp=2)
    text = llmir.run([llmir.program("llmir-inspect"), "show", job.plan]).check().stdout
    for word in ("tiny-test", "all_reduce", "send", "layers.0"):
        assert word in text
    assert llmir.ranks_of(job.plan) == 4


def test_the_same_input_gives_the_same_plan(models, tiny):
    job = models.job(tiny, *OPTIONS, tp=2)
    again = llmir.plan(tiny, job.plan.with_name("again.fb"), "--tp", 2, "--pp", 1, *OPTIONS)
    a, b = (json.loads(llmir.run([llmir.program("llmir-inspect"), "show", p, "--json"]).check().stdout) for p in (job.plan, again))
    for shown in (a, b):
        shown["provenance"].pop("command", None)
        shown["provenance"].pop("options", None)
    assert a == b
