"""Replicas x stages x ranks up to 8 ranks: the answers of one rank in every layout, with as many steps in flight as stages."""

import json

import llmir
import numpy as np
import pytest

SHAPE = ("tiny-test", "layers=8", "query_heads=8", "kv_heads=4", "hidden=128", "mlp_columns=520", "vocabulary=520")
# Few sequences a step and short chunks: prompts come in several, beside decodes, and replicas fill up.
OPTIONS = ("--weights", "keep", "--kv-dtype", "f32", "--context", 128, "--max-batch", 2, "--block-size", 16, "--prefill-chunk", 24)
LENGTHS = (1, 2, 3, 30, 60, 5, 90, 7, 24, 48, 25, 11)
ATOL = 2e-4  # ranks sum their parts in another order; logits are about 1

LAYOUTS = [(tp, pp, dp) for tp in range(1, 9) for pp in range(1, 9) for dp in range(1, 9) if 1 < tp * pp * dp <= 8]
QUICK = [(1, 2, 1), (2, 2, 1), (1, 1, 2), (2, 2, 2), (1, 4, 1)]
CASES = [pytest.param(*layout, marks=[] if layout in QUICK else pytest.mark.slow, id="tp{}-pp{}-dp{}".format(*layout)) for layout in LAYOUTS]


def prompts(**fields):
    return [{"prompt_ids": [(i * 37 + n * 5 + 11) % 520 for i in range(count)], **fields} for n, count in enumerate(LENGTHS)]


def logits_of(job, *options):
    """Of all prompts, each with forced ids after it."""
    _, logits = job.generate_with_logits(prompts(force_ids=[5, 300, 77, 12, 41, 500]), *options)
    return np.concatenate(logits)


@pytest.fixture(scope="module")
def model(models):
    return models.random(*SHAPE)[1]


@pytest.mark.parametrize(("tp", "pp", "dp"), CASES)
def test_every_layout_gives_one_ranks_answers(models, model, tp, pp, dp):
    one = models.job(model, *OPTIONS)
    job = models.job(model, *OPTIONS, tp=tp, pp=pp, dp=dp)
    given = logits_of(job)
    np.testing.assert_allclose(given, logits_of(one), atol=ATOL)
    if pp * dp > 1 and (tp, pp, dp) in QUICK:
        # What is in flight beside a row, and in which replica it runs, changes no bit of it.
        alone = models.job(model, *OPTIONS, "--steps-in-flight", 1, tp=tp, pp=pp)
        np.testing.assert_array_equal(given, logits_of(alone))


@pytest.mark.slow
@pytest.mark.parametrize("overlap", ["none", "halves", "scatter"])
@pytest.mark.parametrize(("tp", "pp", "dp"), [(2, 2, 2), (4, 2, 1), (2, 4, 1), (4, 1, 2), (3, 2, 1)])
def test_overlap_in_every_kind_of_layout(models, model, tp, pp, dp, overlap):
    job = models.job(model, *OPTIONS, "--overlap", overlap, tp=tp, pp=pp, dp=dp)
    np.testing.assert_allclose(logits_of(job), logits_of(models.job(model, *OPTIONS)), atol=ATOL)


def drawn(lines):
    return [[answer["ids"] for answer in line["answers"]] for line in lines]


def test_drawn_ids_and_scores_are_those_of_one_rank(models, model):
    one, job = models.job(model, *OPTIONS), models.job(model, *OPTIONS, tp=1, pp=2, dp=2)
    asked = prompts(max_tokens=12, temperature=1.0, seed=5, n=2)
    assert drawn(job.generate(asked)) == drawn(one.generate(asked))
    texts = [prompt["prompt_ids"] for prompt in prompts() if len(prompt["prompt_ids"]) > 1]
    for mine, theirs in zip(job.score(texts), one.score(texts), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=ATOL)


def test_the_report_names_replicas_and_stages(models, model, tmp_path):
    job = models.job(model, *OPTIONS, tp=1, pp=2, dp=2)
    job.generate(prompts(max_tokens=8), "--report", tmp_path / "report.json", "--forget-prefixes")
    ranks = json.loads((tmp_path / "report.json").read_text())["ranks"]
    assert [(rank["replica"], rank["stage"]) for rank in ranks] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    tokens = [sum(program["tokens"] for program in rank["programs"]) for rank in ranks]
    assert tokens[0] == tokens[1] > 0 and tokens[2] == tokens[3] > 0
    # Every id but each answer's last is computed once, in one of the replicas.
    assert tokens[0] + tokens[2] == sum(LENGTHS) + 7 * len(LENGTHS)


def test_the_plan_says_how_many_steps_are_in_flight(models, model, tmp_path):
    def limits(*options, **layout):
        shown = llmir.run([llmir.program("llmir-inspect"), "show", models.job(model, *OPTIONS, *options, **layout).plan, "--json"]).check()
        return json.loads(shown.stdout)["limits"]

    assert limits(pp=4)["steps_in_flight"] == 4
    assert limits("--steps-in-flight", 2, pp=4)["steps_in_flight"] == 2
    shown = llmir.run([llmir.program("llmir-inspect"), "show", models.job(model, *OPTIONS, pp=4).plan]).check().stdout
    assert "4 steps of a replica in flight, 8 sequences at a time" in shown
    for options, message in (
        (("--steps-in-flight", 3, "--pp", 2), "--steps-in-flight 3: expected 1 to 2"),
        (("--dp", 0), "--dp 0: expected 1 to 16"),
        (("--dp", 2, "--ranks", 3), "--ranks 3 can't be divided among --dp 2"),
    ):
        result = llmir.run([llmir.program("llmir-plan"), model, "-o", tmp_path / "plan.fb", *options])
        assert result.status != 0 and message in result.stderr, result.stderr


@pytest.mark.parametrize("tp", [2, 3])
def test_the_stated_cap_follows_from_leaf_counts(models, smollm2, tp):
    """Between two collectives the slowest rank's part of the weights counts: by rows and columns, as all have one type."""
    shown = json.loads(llmir.run([llmir.program("llmir-inspect"), "show", models.job(smollm2, tp=tp).plan, "--json"]).check().stdout)
    (stage,) = shown["replicas"][0]["stages"]
    shape = shown["model"]
    ranges = [{part["unit"]: part.get("end", 0) - part.get("begin", 0) for part in rank["ranges"]} for rank in stage["ranks"]]
    heads, kv_heads, dim, hidden = (shape[name] for name in ("query_heads", "kv_heads", "head_dim", "hidden"))
    # q, k, v and o of a head; gate, up and down of 64 columns; 64 rows of the head, all by hidden.
    attention = [(2 * part["query_head"] + 2 * part["kv_head"]) * dim for part in ranges]
    mlp = [3 * 64 * part["mlp_column"] for part in ranges]
    head = [64 * part["vocabulary"] for part in ranges]
    assert sum(mlp) == 3 * shape["mlp_columns"] and sum(head) == shape["vocabulary"]
    alone = shape["layers"] * (2 * (heads + kv_heads) * dim + sum(mlp)) + sum(head)
    together = shape["layers"] * (max(attention) + max(mlp)) + max(head)
    assert hidden == heads * dim
    # Norms, which every rank reads whole, and panels' padding are not in it.
    assert stage["efficiency"] == pytest.approx(alone / together / tp, rel=5e-3)
    assert stage["efficiency"] < 1
