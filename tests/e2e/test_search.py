"""Clusters: a plan is simulated on one, the layout for one is searched for, and unlike nodes get unlike shares."""

import json

import llmir
import numpy as np
import pytest

CLUSTERS = llmir.REPOSITORY / "configs" / "clusters"
WORKLOADS = llmir.REPOSITORY / "configs" / "workloads"


def simulate(plan, *options):
    shown = llmir.run([llmir.program("llmir-inspect"), "simulate", plan, "--json", *options]).check()
    return json.loads(shown.stdout)


def show(plan):
    return json.loads(llmir.run([llmir.program("llmir-inspect"), "show", plan, "--json"]).check().stdout)


@pytest.mark.parametrize("cluster", sorted(CLUSTERS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_plan_is_simulated_on_every_cluster_of_the_project(models, cluster):
    _, file = models.random("tiny-test")
    job = models.job(file, "--context", 128, tp=2)
    found = simulate(job.plan, "--cluster", cluster, "--batch", 4, "--prompt", 64)
    assert found["fits"] and found["first_token_us"] > found["token_us"] > 0
    for part in ("prompt", "decode"):
        steps = found[part]["step_us"]
        for rank in found[part]["ranks"]:
            used = rank["compute_us"] + rank["transfer_us"] + rank["wait_us"] + rank["bubble_us"]
            assert 0 < used <= sum(steps) * 1.001
    decode = found["decode"]
    # Of the last step every step of the plan is there, in order, on both ranks.
    planned = [p for p in show(job.plan)["replicas"][0]["stages"][0]["programs"] if p["kind"] == "decode"][0]["steps"]
    for rank in (0, 1):
        names = [step["name"] for step in planned if not step["ranks"][rank].get("skip")]
        assert [step["step"] for step in decode["steps"] if step["rank"] == rank] == names
    text = llmir.run([llmir.program("llmir-inspect"), "simulate", job.plan, "--cluster", cluster, "--batch", 4, "--steps"]).check().stdout
    assert "time per token" in text and "bubble" in text and planned[0]["name"] in text


def test_bytes_per_link_follow_from_the_layout(models):
    _, file = models.random("tiny-test")
    unlike = CLUSTERS / "unlike.yaml"
    pipeline = models.job(file, "--context", 128, pp=2)
    (there, back) = sorted(simulate(pipeline.plan, "--cluster", unlike, "--batch", 1)["links"], key=lambda link: -link["decode_step_bytes"])[:2]
    hidden = show(pipeline.plan)["model"]["hidden"]
    assert there["link"] == "new to old" and there["decode_step_bytes"] >= hidden * 4
    assert back["link"] == "old to new" and back["decode_step_bytes"] == 4


def test_steps_in_flight_fill_the_stages(models):
    _, file = models.random("tiny-test", "layers=8")
    job = models.job(file, "--context", 128, pp=2)
    # Four sequences of each step.
    rates = [
        simulate(job.plan, "--cluster", CLUSTERS / "a100x8.yaml", "--batch", 4 * n, "--in-flight", n)["decode_tokens_per_s"] for n in (1, 2)
    ]
    assert 1.3 * rates[0] < rates[1] <= 2.001 * rates[0]


def test_parts_of_a_step_add_up_to_the_whole(models):
    """Halves compute what the whole does, and read their matrices twice; of norms each rank does its share."""
    _, file = models.random("tiny-test")
    work = {}
    for overlap in ("none", "halves", "scatter"):
        job = models.job(file, "--context", 128, "--overlap", overlap, tp=2)
        steps = simulate(job.plan, "--cluster", CLUSTERS / "laptop.yaml", "--prompt", 64)["prompt"]["steps"]
        for kind in ("linear", "rms_norm"):
            work[overlap, kind] = sum(step["compute_us"] for step in steps if step["kind"] == kind)
    assert 0.99 * work["none", "linear"] < work["halves", "linear"] < 2.01 * work["none", "linear"]
    assert work["halves", "rms_norm"] == pytest.approx(work["none", "rms_norm"], rel=0.02)
    assert work["scatter", "linear"] == pytest.approx(work["none", "linear"], rel=0.02)
    assert work["scatter", "rms_norm"] < 0.7 * work["none", "rms_norm"]


def search(model, plan, *options):
    return llmir.run([llmir.program("llmir-plan"), model, "-o", plan, *options]).check().stdout


def test_a_small_model_is_better_off_with_fewer_ranks(models, tmp_path):
    _, file = models.random("tiny-test")
    printed = search(file, tmp_path / "plan.fb", "--cluster", CLUSTERS / "cpu-10gbit.yaml", "--ranks", 4, "--context", 128)
    assert "chosen" in printed and "use fewer ranks: 1 of 4, for 4 would be" in printed and "of messages" in printed
    assert llmir.ranks_of(tmp_path / "plan.fb") == 1
    explained = llmir.run([llmir.program("llmir-inspect"), "show", tmp_path / "plan.fb", "--explain"]).check().stdout
    assert "--goal latency: 1 rank as 1" in explained
    job = llmir.Job(tmp_path / "plan.fb", 1, tmp_path)
    (line,) = job.generate([{"prompt_ids": [5, 6, 7]}], "--max-tokens", 4)
    assert 1 <= len(line["ids"]) <= 4


def test_a_large_model_takes_all_ranks_and_says_what_the_next_would_lose(tmp_path):
    shape = llmir.REPOSITORY / "configs" / "models" / "llama-2-7b.yaml"
    printed = search(shape, tmp_path / "plan.fb", "--cluster", CLUSTERS / "a100x8.yaml", "--ranks", 2, "--max-batch", 8,
                     "--goal", "throughput", "--workload", make_workload(tmp_path))  # fmt: skip
    assert "2 ranks as 2," in printed and "next, " in printed
    table = [line.split() for line in printed.splitlines() if line.strip()[:1].isdigit()]
    assert {words[1] for words in table if words[0] in ("1", "2")} >= {"1", "2", "1+1"}
    assert llmir.ranks_of(tmp_path / "plan.fb") == 2


NODE = "cores: 1, memory_gb: 8, read_gb_per_s: 10, gflop_per_s: 50, link: {latency_us: 1, gb_per_s: 10}"
SMOLLM2_SHAPE = llmir.REPOSITORY / "configs" / "models" / "smollm2-135m.yaml"


def apart(folder, nodes, latency_us):
    """Nodes of one core."""
    path = folder / f"apart-{nodes}-{latency_us}.yaml"
    path.write_text(f"name: apart\nnodes:\n  - {{name: n, count: {nodes}, {NODE}}}\nnetwork: {{latency_us: {latency_us}, gb_per_s: 0.1}}\n")
    return path


def test_replicas_are_searched_for_too(tmp_path):
    """Where messages are dear, eight sequences are best off in replicas; one sequence has no use for them."""
    options = ("--cluster", apart(tmp_path, 4, 5000), "--ranks", 4, "--context", 512, "--max-batch", 8)
    printed = search(SMOLLM2_SHAPE, tmp_path / "plan.fb", *options, "--goal", "throughput")
    assert "4 ranks as 4 x 1," in printed
    assert {line[6:18].strip() for line in printed.splitlines() if line.startswith("    4")} >= {"4 x 1", "2 x 2", "4"}
    assert len(show(tmp_path / "plan.fb")["replicas"]) == 4 and llmir.ranks_of(tmp_path / "plan.fb") == 4
    alone = search(SMOLLM2_SHAPE, tmp_path / "alone.fb", *options, "--goal", "latency")
    assert "use fewer ranks" in alone and " x " not in alone
    # Asked for, their number stays.
    search(SMOLLM2_SHAPE, tmp_path / "two.fb", *options, "--goal", "throughput", "--dp", 2)
    assert len(show(tmp_path / "two.fb")["replicas"]) == 2


def test_a_search_that_takes_replicas_makes_a_plan_that_runs(models, tmp_path):
    _, file = models.random("tiny-test")
    search(file, tmp_path / "plan.fb", "--cluster", apart(tmp_path, 3, 50), "--ranks", 3, "--dp", 3, "--goal", "throughput", "--context", 128)
    job = llmir.Job(tmp_path / "plan.fb", 3, tmp_path)
    alone = models.job(file, "--context", 128)
    prompts = [{"prompt_ids": [5 + i, 6, 7]} for i in range(8)]
    ids = [[line["ids"] for line in each.generate(prompts, "--max-tokens", 4, "--ignore-eos")] for each in (job, alone)]
    assert ids[0] == ids[1]


def test_the_rates_of_replicas_add_up_and_the_slowest_is_shown(models, tmp_path):
    one = simulate(models.job(SMOLLM2_SHAPE, "--context", 512).plan, "--cluster", apart(tmp_path, 2, 0.01), "--batch", 4)
    two = models.job(SMOLLM2_SHAPE, "--context", 512, dp=2)
    both = simulate(two.plan, "--cluster", apart(tmp_path, 2, 0.01), "--batch", 8)
    assert both["sequences"] == 4 and both["token_us"] == pytest.approx(one["token_us"], rel=1e-3)
    assert both["decode_tokens_per_s"] == pytest.approx(2 * one["decode_tokens_per_s"], rel=1e-3)
    assert both["tokens_per_s"] == pytest.approx(2 * one["tokens_per_s"], rel=1e-3)
    unlike = tmp_path / "unlike.yaml"
    slow = NODE.replace("read_gb_per_s: 10", "read_gb_per_s: 5")
    unlike.write_text(f"name: unlike\nnodes:\n  - {{name: a, {NODE}}}\n  - {{name: b, {slow}}}\nnetwork: {{latency_us: 50, gb_per_s: 1}}\n")
    found = simulate(two.plan, "--cluster", unlike, "--batch", 8)
    assert found["replica"] == 1 and found["token_us"] > both["token_us"]
    assert both["decode_tokens_per_s"] / 2 < found["decode_tokens_per_s"] < both["decode_tokens_per_s"]


def make_workload(folder):
    path = folder / "load.yaml"
    path.write_text("name: load\nbatch: 8\nrequests: [{prompt: 100, answer: 50}]\n")
    return path


def test_what_does_not_fit_is_left_out_with_the_reason(tmp_path):
    shape = llmir.REPOSITORY / "configs" / "models" / "llama-2-13b.yaml"
    cluster = tmp_path / "small.yaml"
    node = "cores: 8, memory_gb: %d, read_gb_per_s: 40, gflop_per_s: 500, link: {latency_us: 1, gb_per_s: 10}"
    network = "network: {latency_us: 30, gb_per_s: 1}\n"
    cluster.write_text(f"name: small\nnodes:\n  - {{name: n, count: 2, {node % 20}}}\n{network}")
    printed = search(shape, tmp_path / "plan.fb", "--cluster", cluster, "--ranks", 2, "--context", 256)
    assert "can't: n0 has 20.0 GB of memory, its ranks need 2" in printed
    assert llmir.ranks_of(tmp_path / "plan.fb") == 2
    cluster.write_text(f"name: small\nnodes:\n  - {{name: n, count: 2, {node % 5}}}\n{network}")
    refused = llmir.run([llmir.program("llmir-plan"), shape, "-o", tmp_path / "none.fb", "--cluster", cluster, "--ranks", 2])
    (line,) = refused.error_lines()
    assert refused.status == 1 and "fits small: n0 has 5.0 GB of memory" in line


def test_unlike_nodes_get_unlike_shares_and_the_answers_stay(models, tmp_path):
    _, file = models.random("tiny-test", "layers=6", "query_heads=6", "kv_heads=3", "head_dim=32", "hidden=192", "mlp_columns=768")
    ids = [5, 9, 200, 31, 7, 300, 12]
    prompt = {"prompt_ids": ids, "force_ids": ids}
    logits = []
    for options in ((), ("--tp", 2, "--cluster", CLUSTERS / "unlike.yaml"), ("--pp", 2, "--cluster", CLUSTERS / "unlike.yaml")):
        plan = llmir.plan(file, tmp_path / f"{len(logits)}.fb", "--context", 64, *options)
        stages = show(plan)["replicas"][0]["stages"]
        if "--tp" in options:
            sizes = [{r["unit"]: r["end"] - r.get("begin", 0) for r in rank["ranges"]} for rank in stages[0]["ranks"]]
            # 40 GB/s and 20 GB/s.
            assert [s["query_head"] for s in sizes] == [4, 2] and [s["mlp_column"] for s in sizes] == [8, 4]
        if "--pp" in options:
            assert [stage["layer_end"] - stage.get("layer_begin", 0) for stage in stages] == [4, 2]
        job = llmir.Job(plan, llmir.ranks_of(plan), tmp_path / str(len(logits)))
        _, (rows,) = job.generate_with_logits([prompt], "--max-tokens", len(ids), "--ignore-eos")
        logits.append(rows)
    for other in logits[1:]:
        np.testing.assert_allclose(other, logits[0], atol=2e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--ranks", "auto"), "--ranks auto: --cluster FILE is missing"),
        (("--goal", "latency"), "--goal latency: is for a search"),
        (("--cluster", CLUSTERS / "laptop.yaml", "--ranks", 2, "--goal", "speed"), "--goal speed: expected latency or throughput"),
        (("--cluster", "none.yaml", "--tp", 2), "none.yaml: cannot be read; configs/clusters has examples"),
        (("--ranks", "many"), "--ranks many: expected 1 or more, or auto"),
    ],
)
def test_wrong_options_are_one_line(models, tmp_path, options, words):
    _, file = models.random("tiny-test")
    refused = llmir.run([llmir.program("llmir-plan"), file, "-o", tmp_path / "plan.fb", *options])
    (line,) = refused.error_lines()
    assert refused.status == 1 and words in line


def test_simulation_without_hardware_or_with_a_wrong_file_is_one_line(models, tmp_path):
    _, file = models.random("tiny-test")
    job = models.job(file, tp=2)
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("name: x\nnodes:\n  - name: n\n    cores: none\n")
    for options, words in (
        ((), "on which hardware?"),
        (("--cluster", wrong), "wrong.yaml: line 4: nodes[0].cores: none, expected"),
        (("--cluster", CLUSTERS / "laptop.yaml", "--batch", 99), "a batch of 99: expected 1 to 8"),
    ):
        (line,) = llmir.run([llmir.program("llmir-inspect"), "simulate", job.plan, *options]).error_lines()
        assert words in line
