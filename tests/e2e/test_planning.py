"""What llmir-plan decides for a machine, a workload and a number of ranks, and what it says about it."""

import json
import resource

import llmir
import numpy as np
import pytest

WORKLOADS = llmir.REPOSITORY / "configs" / "workloads"
# One, primes, powers of two, more than any model's heads or layers.
RANKS = "1,2,3,7,16,33,48,64"


@pytest.mark.parametrize("shape", ["llama-2-7b", "llama-2-13b", "llama-2-70b"])
def test_shapes_are_planned_for_numbers_of_ranks(shape, tmp_path):
    rows = tmp_path / "rows.json"
    done = llmir.run([llmir.REPOSITORY / "perf" / "planning.py", "--build", llmir.BUILD, "--shapes", shape, "--ranks", RANKS, "--json", rows])
    done.check()
    rows = json.loads(rows.read_text())["rows"]
    assert [row["ranks"] for row in rows] == [int(n) for n in RANKS.split(",")]
    for row in rows:
        assert sum(int(tp) for tp in row["layout"].split("+")) == row["ranks"]


def test_ranks_that_cannot_be_used_are_refused_in_one_line(tmp_path):
    shape = llmir.REPOSITORY / "configs" / "models" / "tiny-test.yaml"
    refused = llmir.run([llmir.program("llmir-plan"), shape, "-o", tmp_path / "plan.fb", "--ranks", 16])
    assert refused.status == 1
    assert refused.error_lines() == [
        "llmir-plan: --ranks 16: expected 1 to 15: the model has 3 layers, and at most 5 ranks can divide one"
    ]
    both = llmir.run([llmir.program("llmir-plan"), shape, "-o", tmp_path / "plan.fb", "--ranks", 2, "--tp", 2])
    assert both.error_lines() == ["llmir-plan: --ranks chooses --tp and --pp: give it alone"]
    assert not (tmp_path / "plan.fb").exists()


def test_smollm2_is_planned_within_two_seconds(smollm2, tmp_path):
    # Of processors, all threads together: other work on the machine isn't the planner's.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    llmir.run([llmir.program("llmir-plan"), smollm2, "-o", tmp_path / "plan.fb"]).check()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 2


def test_every_workload_gives_a_plan_that_says_what_it_was_made_for(smollm2, tmp_path):
    for workload in sorted(WORKLOADS.glob("*.yaml")):
        plan = llmir.plan(smollm2, tmp_path / "plan.fb", "--workload", workload, "--max-batch", 32)
        shown = json.loads(llmir.run([llmir.program("llmir-inspect"), "show", plan, "--json"]).check().stdout)
        assert shown["provenance"]["workload_file"] == workload.name
        assert [a["block_size"] for a in shown["kv"]["alternatives"]] == [16, 32, 64, 128, 256]
        for prefix in shown["prefixes"]:
            assert len(prefix["ids"]) % shown["kv"]["block_size"] == 0
        if workload.stem == "few-shot":
            assert len(shown["prefixes"]) == 1 and shown["prefixes"][0]["share"] == 1


def test_explanations_are_those_of_the_plan(models, tmp_path):
    _, file = models.random("tiny-test")
    planned = llmir.run([llmir.program("llmir-plan"), file, "-o", tmp_path / "plan.fb", "--tp", 2, "--explain"]).check()
    shown = llmir.run([llmir.program("llmir-inspect"), "show", tmp_path / "plan.fb", "--explain"]).check()
    explained = shown.stdout.partition("\n\n")[2]
    assert explained.strip() in planned.stdout
    for name in ("llm-choose-precision", "llm-fuse-qkv", "llm-shard-stages", "llm-plan-memory"):
        assert f"{name}: " in explained


def test_ir_is_printed_after_the_passes_that_are_named(models, tmp_path):
    _, file = models.random("tiny-test")
    command = [llmir.program("llmir-plan"), file, "-o", tmp_path / "plan.fb"]
    printed = llmir.run([*command, "--print-ir-after=llm-fuse-qkv", "--print-ir-after=llm-make-programs"]).check().stderr
    assert printed.count("IR Dump After") == 2
    assert "llm.rope_append" in printed and "@stage0_decode" in printed
    refused = llmir.run([*command, "--print-ir-after=llm-fuse"])
    assert len(refused.error_lines()) == 1 and "llm-fuse-qkv" in refused.error_lines()[0]


@pytest.mark.parametrize("disabled", ["kv,precision,parallel,fusion", "llm-fuse-residual", "llm-fuse-norm-quantize"])
def test_without_optimizations_the_answers_are_the_same_bits(models, disabled, tmp_path):
    """Fusions keep the order of sums, and a split message is the same message."""
    _, file = models.random("tiny-test", gguf_type="Q8_0")
    ids = [5, 9, 200, 31, 7, 300, 12]
    answers = []
    for options in ((), ("--disable", disabled)):
        job = models.job(file, "--context", 128, *options, tp=2)
        prompt = {"prompt_ids": ids, "force_ids": ids}
        _, (logits,) = job.generate_with_logits([prompt], "--max-tokens", len(ids), "--ignore-eos")
        answers.append(logits)
    np.testing.assert_array_equal(answers[0], answers[1])
