"""`llmir-plan --reproducible`: not a bit of the logits depends on the layout, the batch, the chunks of a prompt, a cached prefix,
or whether a token was a prompt's or was fed by itself. SmolLM2 has 9 query heads, 3 KV heads and 24 leaves of MLP columns, so
that the ranges of most layouts are no subtrees of the sums."""

import json

import llmir
import numpy as np
import pytest

BATCH = 32
COUNT = BATCH + 8  # the last ones start when others have ended, and find their prefix cached
PREFIX = [(37 * i + 11) % 49000 for i in range(40)]
FORCED = [(101 * i + 3) % 49000 for i in range(4)]
BASE = ("--context", 192, "--block-size", 16)
ONE_BY_ONE = ("--max-batch", 1, "--prefill-chunk", 128)
TOGETHER = ("--max-batch", BATCH, "--prefill-chunk", 24)


def together_in(stages):
    """As many sequences in all steps in flight as TOGETHER has in one."""
    return ("--max-batch", BATCH // stages, "--prefill-chunk", 24)


def prompt(i):
    """Every second one begins like the others of these; lengths differ."""
    own = [(53 * i + 7 * k) % 49000 for k in range(3 + 5 * i % 29)]
    return {"prompt_ids": [*PREFIX, *own] if i % 2 == 0 else own, "force_ids": FORCED}


PROMPTS = [prompt(i) for i in range(COUNT)]
# Tokens that were decoded above as a part of the prompt.
PREFILLED = [{"prompt_ids": [*p["prompt_ids"], *FORCED[:-1]], "force_ids": FORCED[-1:]} for p in PROMPTS[:4]]
SCORED = [[*p["prompt_ids"], *FORCED] for p in PROMPTS[:3]]


class Layouts:
    """Plans of SmolLM2, and what they give."""

    def __init__(self, model, folder):
        self.model = model
        self.folder = folder
        self.made = {}

    def job(self, tp, pp, *options):
        key = (tp, pp, options)
        if key not in self.made:
            folder = self.folder / f"{len(self.made)}"
            folder.mkdir()
            path = llmir.plan(self.model, folder / "plan.fb", "--tp", tp, "--pp", pp, *BASE, *options)
            self.made[key] = llmir.Job(path, llmir.ranks_of(path), folder)
        return self.made[key]

    def logits(self, tp, pp, *options, prompts=PROMPTS):
        job = self.job(tp, pp, *options)
        tokens = len(prompts[0]["force_ids"])
        _, logits = job.generate_with_logits(prompts, "--ignore-eos", "--max-tokens", tokens, "--report", job.folder / "report.json")
        return logits


@pytest.fixture(scope="module")
def layouts(smollm2, tmp_path_factory):
    return Layouts(smollm2, tmp_path_factory.mktemp("layouts"))


@pytest.fixture(scope="module")
def expected(layouts):
    """By the weights' type: logits and scores of one rank, one sequence after the other, prompts whole."""
    made = {}

    def get(weights):
        if weights not in made:
            options = ("--reproducible", "--weights", weights, *ONE_BY_ONE)
            made[weights] = layouts.logits(1, 1, *options), layouts.job(1, 1, *options).score(SCORED)
        return made[weights]

    return get


def shown(job):
    return json.loads(llmir.run([llmir.program("llmir-inspect"), "show", job.plan, "--json"]).check().stdout)


def assert_same_bits(got, wanted, message):
    for i, (one, other) in enumerate(zip(got, wanted, strict=True)):
        np.testing.assert_array_equal(one.view(np.uint32), other.view(np.uint32), err_msg=f"{message}, prompt {i}")


FAST = [("2", 1, "keep"), ("3", 1, "bf16"), ("2,1", 2, "keep")]
SLOW = [("8", 1, "keep"), ("1", 8, "keep"), ("4,3", 2, "keep")]
LONG = [(tp, pp, weights) for weights in ("keep", "bf16") for tp, pp in (
    ("1", 1), ("2", 1), ("3", 1), ("4", 1), ("5", 1), ("6", 1), ("7", 1), ("8", 1),
    ("1", 2), ("1", 3), ("1", 5), ("1", 8), ("2", 2), ("3", 2), ("2", 3), ("2", 4), ("4", 2), ("4,3", 2), ("1,5,2", 3),
) if (tp, pp, weights) not in FAST + SLOW]  # fmt: skip
CASES = [pytest.param(*case, marks=mark) for cases, mark in ((FAST, []), (SLOW, pytest.mark.slow), (LONG, pytest.mark.long)) for case in cases]


@pytest.mark.parametrize(("tp", "pp", "weights"), CASES)
def test_logits_have_the_bits_of_one_rank(layouts, expected, tp, pp, weights):
    logits, scores = expected(weights)
    options = ("--reproducible", "--weights", weights, *together_in(pp))
    together = layouts.logits(tp, pp, *options)
    job = layouts.job(tp, pp, *options)
    engine = json.loads((job.folder / "report.json").read_text())["engine"]
    assert engine["prefix_hits"] > 0  # some prompts were not computed from their beginning
    assert_same_bits(together, logits, f"tp {tp} pp {pp}")
    prefilled = layouts.logits(tp, pp, *options, prompts=PREFILLED)
    assert_same_bits(prefilled, [row[-1:] for row in logits[: len(PREFILLED)]], f"tp {tp} pp {pp}, prefilled")
    assert_same_bits(job.score(SCORED), scores, f"tp {tp} pp {pp}, scores")


@pytest.mark.parametrize("overlap", ["scatter", pytest.param("halves", marks=pytest.mark.slow), pytest.param("none", marks=pytest.mark.slow)])
def test_overlap_changes_no_bit(layouts, expected, overlap):
    logits, _ = expected("keep")
    assert_same_bits(layouts.logits("3", 1, "--reproducible", "--overlap", overlap, *TOGETHER), logits, overlap)


def test_without_it_the_last_bits_depend_on_the_layout(layouts, expected):
    logits, _ = expected("bf16")
    split = layouts.logits("3", 1, "--weights", "bf16", *TOGETHER)
    assert any((one != other).any() for one, other in zip(split, logits, strict=True))


def test_the_plan_says_what_holds(layouts):
    plans = {
        (tp, pp): shown(layouts.job(tp, pp, "--reproducible=portable", *TOGETHER))
        for tp, pp in (("1", 1), ("2", 1), ("2,1", 2))
    }
    assert len({plan["numerics"] for plan in plans.values()}) == 1
    for plan in plans.values():
        assert plan["reproducible"] and plan["isa"] == "portable"
        assert plan["required_features"]
    other = shown(layouts.job("1", 1, "--reproducible=avx2", *TOGETHER))
    assert other["numerics"] != plans["1", 1]["numerics"]
    plain = shown(layouts.job("2", 1, *TOGETHER))
    assert not plain.get("reproducible", False) and "isa" not in plain
    # 5 and 4 heads are [0,4) [4,5) and [5,6) [6,8) [8,9) of the tree over 9.
    (stage,) = plans["2", 1]["replicas"][0]["stages"]
    decode = next(program for program in stage["programs"] if program["kind"] == "decode")
    nodes = {tuple(buffer["nodes"]) for buffer in decode["buffers"] if buffer.get("nodes")}
    assert nodes == {(2, 3), (2, 2)}
    text = llmir.run([llmir.program("llmir-inspect"), "show", layouts.job("2", 1, "--reproducible=portable", *TOGETHER).plan]).stdout
    assert "reproducible with the portable kernels" in text and "+tree mlp_column" in text


def test_another_family_of_kernels_is_refused(layouts):
    job = layouts.job("1", 1, "--reproducible=portable", *TOGETHER)
    refused = job.run("--prompt", "the", "--max-tokens", 1, environment={"LLMIR_CPU_ISA": "avx2"})
    assert refused.status != 0
    assert "reproducible with the portable kernels, but LLMIR_CPU_ISA=avx2" in refused.stderr
    # Unasked, the plan's family runs, not this processor's best.
    report = job.folder / "report.json"
    job.run("--prompt", "the", "--max-tokens", 1, "--report", report).check()
    assert json.loads(report.read_text())["ranks"][0]["isa"] == "portable"


def test_a_wrong_family_is_refused(smollm2, tmp_path):
    result = llmir.run([llmir.program("llmir-plan"), smollm2, "-o", tmp_path / "plan.fb", "--reproducible=sse9"])
    assert result.status != 0
    assert "--reproducible=sse9: expected a family of kernels" in result.stderr
