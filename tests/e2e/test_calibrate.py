"""`llmir-exec --calibrate`: the file that it writes, and what it leaves when it is stopped."""

import json
import os
import signal
import subprocess
import time

import llmir
import pytest


@pytest.fixture(scope="module")
def calibration_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "new folder" / "machine.json"
    result = llmir.run([llmir.program("llmir-exec"), "--calibrate", path, "--threads", 2]).check()
    assert "calibrating linear_q8_q4_1" in result.stderr
    assert list(path.parent.iterdir()) == [path]
    assert result.seconds < 90
    return path


@pytest.fixture(scope="module")
def calibration(calibration_file):
    return json.loads(calibration_file.read_text())


def assert_figure(entry, name):
    assert entry[name] > 0
    assert entry["repeats"] >= 1
    assert entry["spread"] >= 0


def test_it_says_what_was_measured_and_how(calibration):
    assert calibration["version"] == 2
    assert calibration["machine"]["cpu"]
    assert calibration["machine"]["isa"] in ("portable", "avx2", "avx512")
    assert calibration["machine"]["cores"] >= 1
    assert calibration["threads"] == 2
    assert calibration["commit"]
    assert calibration["command"].startswith("llmir-exec --calibrate")
    assert calibration["memory_bytes_per_s"] > 1e8
    assert 0 < calibration["barrier_us"] < 1000


def test_every_kind_of_kernel_is_there(calibration):
    linear = {entry["kernel"] for entry in calibration["linear"]}
    assert {"linear_f32_f32", "linear_f32_f16", "linear_f32_bf16", "linear_q8_q8_0", "linear_q8_q4_0", "linear_q8_q4_1"} <= linear
    for entry in calibration["linear"]:
        assert [row["tokens"] for row in entry["tokens"]] == [1, 2, 4, 8, 32, 128]
        for row in entry["tokens"]:
            assert_figure(row, "us")
    kinds = {(entry["kv"], entry["form"], entry["block_size"]) for entry in calibration["attention"]}
    assert {(kv, "flash", size) for kv in ("f32", "bf16") for size in (16, 32, 64, 128, 256)} <= kinds
    for entry in calibration["attention"]:
        assert_figure(entry, "us")
        assert min(entry[name] for name in ("head_dim", "heads_per_kv", "kv_heads", "batch", "context", "tokens")) >= 1
        assert entry["fused"] or entry["append_us"] > 0
    assert {"rms_norm_f32", "rms_norm_q8", "quantize_q8", "add_f32", "layer_norm_f32", "gelu_mul_f32"} <= {entry["kernel"] for entry in calibration["vector"]}
    for entry in calibration["vector"]:
        assert_figure(entry, "us_per_row")
        assert entry["columns"] >= 1


def test_one_row_reads_its_weights_from_memory(calibration):
    """If it were faster, the weights would have come from a cache, and a plan's predictions would be too good."""
    for entry in calibration["linear"]:
        # The median of the repeats: a shared host's memory gives half as much again for the microseconds of the best one. What
        # came from a cache would be twice as fast each time.
        row = entry["tokens"][0]
        rate = entry["bytes"] / (row["us"] * (1 + row["spread"])) * 1e6
        assert rate < 1.2 * calibration["memory_bytes_per_s"], entry


def test_more_work_takes_longer(calibration):
    for entry in calibration["linear"]:
        times = [row["us"] for row in entry["tokens"]]
        assert times[0] < times[-1], entry

    def attention(**wanted):
        (entry,) = [e for e in calibration["attention"] if all(e[name] == value for name, value in wanted.items())]
        return entry["us"]

    for kv in ("f32", "bf16"):
        shape = {"kv": kv, "form": "flash", "fused": False, "block_size": 32, "head_dim": 64, "tokens": 1}
        assert attention(batch=1, context=56, **shape) < attention(batch=32, context=1960, **shape)


def test_a_signal_leaves_no_file(tmp_path):
    path = tmp_path / "machine.json"
    process = subprocess.Popen(
        [llmir.program("llmir-exec"), "--calibrate", path], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert "calibrating" in process.stderr.readline()
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "stopped by a signal" in errors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [(("plan.fb", "--calibrate", "x.json"), ("--calibrate", "plan")), (("--calibrate", "/dev/full/x.json"), ("/dev/full",))],
)
def test_wrong_use_is_one_line(options, words):
    result = llmir.run([llmir.program("llmir-exec"), *options])
    assert result.status != 0
    (line,) = result.error_lines()
    for word in words:
        assert word in line


def test_one_thread_alone_and_messages_are_measured(calibration):
    alone = calibration["alone"]
    assert alone["threads"] == 1 and alone["memory_bytes_per_s"] > 1e8
    assert {entry["kernel"] for entry in alone["linear"]} == {entry["kernel"] for entry in calibration["linear"]}
    assert {entry["block_size"] for entry in alone["attention"]} == {16, 128}
    assert calibration["process_bytes"] > 1e6
    if calibration["machine"]["cores"] < 2:
        assert calibration["links"] == []
        return
    for link in calibration["links"]:
        assert link["channel"] == "shared-memory" and link["hosts"] == 1
        assert {entry["operation"] for entry in link["operations"]} == {"all_reduce", "reduce_scatter", "all_gather", "gather", "broadcast", "send"}
        for entry in link["operations"]:
            assert all(size["us"] > 0 for size in entry["sizes"])
            assert entry["sizes"][0]["us"] < entry["sizes"][-1]["us"]


def test_ranks_of_a_job_measure_their_messages_too(tmp_path):
    path = tmp_path / "x.json"
    result = llmir.mpi(2, [llmir.program("llmir-exec"), "--calibrate", path, "--threads", 1])
    result.check()
    measured = json.loads(path.read_text())
    assert measured["threads"] == 1 and "alone" not in measured
    (link,) = [link for link in measured["links"] if link["channel"] == "mpi"]
    assert link["ranks"] == 2 and link["hosts"] == 1 and len(link["operations"]) == 6


def test_a_plan_is_simulated_with_measured_times(calibration_file, models):
    _, file = models.random("tiny-test", "layers=4", "hidden=256", gguf_type="Q8_0")
    times = []
    for tp in (1, 2):
        job = models.job(file, "--calibration", calibration_file, "--context", 256, "--max-batch", 2, tp=tp)
        shown = llmir.run([llmir.program("llmir-inspect"), "simulate", job.plan, "--calibration", calibration_file, "--batch", 1, "--json"])
        found = json.loads(shown.check().stdout)
        times.append(found["token_us"])
        assert sum(step["compute_us"] for step in found["decode"]["steps"] if step["kind"] == "linear") > 0
        assert found["oversubscribed"] == (tp > json.loads(calibration_file.read_text())["threads"])
    assert all(1 < us < 1e6 for us in times)


@pytest.fixture(scope="module")
def predicted_run(calibration_file, models, tmp_path_factory):
    """(plan with predicted times for two ranks, report of a run of it)"""
    _, file = models.random("tiny-test", "layers=4", "hidden=256", gguf_type="Q8_0")
    job = models.job(file, "--calibration", calibration_file, "--context", 256, "--max-batch", 2, tp=2)
    report = tmp_path_factory.mktemp("predicted") / "report.json"
    prompts = [{"prompt_ids": list(range(5, 5 + length))} for length in (200, 90)]
    job.generate(prompts, "--max-tokens", 40, "--ignore-eos", "--threads", 1, "--report", report)
    return job.plan, report


def compare(*words):
    return llmir.run([llmir.program("llmir-inspect"), "compare", *words])


def test_predicted_times_stand_beside_measured_ones(predicted_run):
    plan, report = predicted_run
    compared = json.loads(compare(plan, report, "--json").check().stdout)
    shown = json.loads(llmir.run([llmir.program("llmir-inspect"), "show", plan, "--json"]).check().stdout)
    measured = json.loads(report.read_text())
    assert [p["program"] for p in compared["programs"]] == ["mixed", "decode"]
    for program in compared["programs"]:
        (planned,) = [p for p in shown["replicas"][0]["stages"][0]["programs"] if p["kind"] == program["program"]]
        assert program["predicted_tokens"] == planned["predicted_tokens"]
        for row in program["ranks"]:
            # Summed here from the two files, step by step.
            own = [step["ranks"][row["rank"]] for step in planned["steps"]]
            expected = sum(rank.get("predicted_us", 0) for rank in own if not rank.get("skip", False))
            (steps,) = [p["steps"] for p in measured["ranks"][row["rank"]]["programs"] if p["program"] == program["program"]]
            assert row["predicted_us"] == pytest.approx(expected, rel=1e-5)
            assert row["measured_us"] == pytest.approx(sum(step["median_us"] for step in steps), rel=1e-5)
            assert row["ratio"] == pytest.approx(row["measured_us"] / row["predicted_us"])
        kinds = {row["kind"]: row for row in program["kinds"]}
        assert {"linear", "communication"} <= set(kinds) and "wait" not in kinds
        assert kinds["linear"]["steps"] == sum(step["kind"] == "linear" for step in planned["steps"])
    text = compare(plan, report).check().stdout
    assert "Program decode: " in text and "measured/predicted" in text and "all, rank 1" in text


def test_a_report_of_another_plan_is_refused(predicted_run, models, tmp_path):
    plan, report = predicted_run
    _, file = models.random("tiny-test")
    other = llmir.plan(file, tmp_path / "other.fb", "--tp", 2)
    refused = compare(other, report)
    assert refused.status == 1
    (line,) = refused.error_lines()
    checksum = json.loads(report.read_text())["plan_checksum"]
    assert f"of the plan with checksum {checksum}" in line and "run that plan with llmir-exec --report" in line


def test_a_plan_without_predictions_is_refused_with_what_to_do(models, tmp_path):
    _, file = models.random("tiny-test")
    job = models.job(file, tp=2)
    report = tmp_path / "report.json"
    job.generate([{"prompt_ids": [1, 2, 3]}], "--max-tokens", 2, "--report", report)
    (line,) = compare(job.plan, report).error_lines()
    assert "without predicted times; make it with llmir-plan --calibration" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["ranks"].pop(), "1 ranks, but"),
        (lambda r: r["ranks"][1].update(rank=7), "rank 7, which"),
        (lambda r: r["ranks"][0]["programs"][0]["steps"].pop(), "is missing, but"),
        (lambda r: r["ranks"][0]["programs"][0]["steps"][2].update(kind="sample"), "is sample, but"),
        (lambda r: r["ranks"][0]["programs"][0].update(runs=0), "ran 0 times"),
        (lambda r: r["ranks"][0]["programs"][0].update(program="other"), "a program of kind other on rank 0"),
        (lambda r: r.pop("plan_checksum"), "not what llmir-exec --report writes"),
        (lambda r: r.update(report_version=9), "report version 9, expected 1"),
    ],
)
def test_a_report_that_does_not_fit_is_refused(predicted_run, tmp_path, change, message):
    plan, report = predicted_run
    changed = json.loads(report.read_text())
    change(changed)
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(changed))
    (line,) = compare(plan, path).error_lines()
    assert message in line
