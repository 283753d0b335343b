"""`llmir-exec --calibrate`: the file that it writes, and what it leaves when it is stopped."""

import json
import os
import signal
import subprocess
import time

import llmir
import pytest


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    path = tmp_path_factory.mktemp("calibration") / "new folder" / "machine.json"
    result = llmir.run([llmir.program("llmir-exec"), "--calibrate", path, "--threads", 2]).check()
    assert "calibrating linear_q8_q4_1" in result.stderr
    assert list(path.parent.iterdir()) == [path]
    assert result.seconds < 60
    return json.loads(path.read_text())


def assert_figure(entry, name):
    assert entry[name] > 0
    assert entry["repeats"] >= 1
    assert entry["spread"] >= 0


def test_it_says_what_was_measured_and_how(calibration):
    assert calibration["version"] == 1
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
        assert [row["tokens"] for row in entry["tokens"]] == [1, 8, 128]
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
        rate = entry["bytes"] / entry["tokens"][0]["us"] * 1e6
        assert rate < 1.2 * calibration["memory_bytes_per_s"], entry


def test_more_work_takes_longer(calibration):
    for entry in calibration["linear"]:
        times = [row["us"] for row in entry["tokens"]]
        assert times[0] < times[2], entry

    def attention(**wanted):
        (entry,) = [e for e in calibration["attention"] if all(e[name] == value for name, value in wanted.items())]
        return entry["us"]

    for kv in ("f32", "bf16"):
        shape = {"kv": kv, "form": "flash", "fused": False, "block_size": 32, "head_dim": 64, "tokens": 1}
        assert attention(batch=1, context=64, **shape) < attention(batch=32, context=2048, **shape)


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


def test_it_is_for_one_process(tmp_path):
    result = llmir.mpi(2, [llmir.program("llmir-exec"), "--calibrate", tmp_path / "x.json"])
    assert result.status != 0
    (line,) = result.error_lines()
    assert "one process" in line
