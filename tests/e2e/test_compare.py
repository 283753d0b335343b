"""perf/compare.py: the arithmetic of a row with sides that are made up, and our own side on a small model. No peer is
installed or built here."""

import argparse
import json
import pathlib
import struct

import compare
import gguf
import llmir
import pytest
from peers import distributed_llama
from peers.llmir import Llmir, Model, OwnQ8
from peers.llamacpp import gguf_with_weights, model_name, shown
from peers.peer import Failed, Sample, Task, Unsupported

ROW_FIELDS = ["model", "weights", "metric", "threads", "ranks", "batch", "context", "ours", "peer", "peer_version", "peer_command",
              "theirs", "ours_parts", "ratio", "bound", "bound_fraction", "read_gb_per_s", "isa", "commit", "repeats", "min", "max"]  # fmt: skip
MACHINE = {
    "isa": "avx2",
    "read_gb_per_s": {"median": 10.0},
    "fp32_gflop_per_s": {"median": 100.0},
    "bf16_gflop_per_s": {"median": 200.0},
    "int8_gop_per_s": {"median": 400.0},
}
DECODE = Task("decode", 2, 1, 1, 128)


class Side:
    """Gives its values in turn, and notes who was asked when."""

    ranks = 1

    def __init__(self, name, file, values, log, settings=(None,)):
        self.name, self.file, self.values, self.log, self.known = name, file, list(values), log, list(settings)

    def version(self):
        return "1.0"

    def settings(self, task):
        return self.known

    def model(self, source, weights):
        return Model(self.file, "keep")

    def run(self, model, task, setting):
        self.log.append((self.name, setting))
        return Sample(self.values.pop(0), f"run {setting}")


def test_distributed_llama_without_its_source_is_a_row_that_says_not_run():
    row = compare.row_not_run("distributed-llama", argparse.Namespace(dllama=None))
    assert row["peer"] == "distributed-llama" and "--dllama DIR" in row["not_run"]
    assert compare.row_not_run("distributed-llama", argparse.Namespace(dllama=pathlib.Path("x"))) is None
    assert compare.row_not_run("llama.cpp", argparse.Namespace(dllama=None)) is None


def test_distributed_llama_gets_the_very_blocks_of_the_file(models, tmp_path, monkeypatch):
    _, source = models.random("tiny-test", gguf_type="Q4_0")
    monkeypatch.setattr(distributed_llama, "CACHE", tmp_path)
    (tmp_path / "models").mkdir()
    written = distributed_llama.written_model(source).read_bytes()
    magic, header_bytes = struct.unpack_from("<II", written)
    keys = dict(zip(*[iter(struct.unpack_from(f"<{(header_bytes - 8) // 4}I", written, 8))] * 2))
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(source).tensors}
    rows, vocabulary = (int(n) for n in tensors["token_embd.weight"].shape)
    assert magic == 0xA00ABCD and (keys[2], keys[9]) == (rows, vocabulary)
    q = tensors["blk.0.attn_q.weight"].data.tobytes()
    begin = header_bytes + 4 * rows * vocabulary
    assert written[begin : begin + len(q)] == q
    # Everything but the embedding and the norms is 18 bytes per 32 values.
    matrices = sum(int(t.n_elements) for n, t in tensors.items() if len(t.shape) == 2 and n not in ("token_embd.weight", "output.weight"))
    norms = sum(int(t.n_elements) for t in tensors.values() if len(t.shape) == 1)
    assert len(written) == begin + 4 * norms + (matrices + rows * vocabulary) * 18 // 32


@pytest.fixture(scope="module")
def file(models):
    return models.random("tiny-test", gguf_type="Q8_0")[1]


def row_of(file, mine, theirs, task=DECODE, settings=(None,), repeats=3):
    log = []
    ours, peer = Side("ours", file, mine, log), Side("theirs", file, theirs, log, settings)
    return compare.compare(ours, peer, file, "q8_0", task, repeats, lambda _: MACHINE, "abc"), log


def test_row_has_exactly_the_documented_fields(file):
    row, _ = row_of(file, [20, 30, 40], [10, 10, 10])
    assert list(row) == ROW_FIELDS
    assert json.loads(json.dumps(row)) == row


def test_ratio_is_the_median_over_pairs_and_more_than_one_when_we_are_better(file):
    row, _ = row_of(file, [20, 30, 40], [10, 10, 40])
    assert (row["ratio"], row["min"], row["max"]) == (2, 1, 3)
    row, _ = row_of(file, [2, 2, 2], [4, 4, 4], task=Task("load", 2, 1, 1, 1))
    assert row["ratio"] == 2


def test_the_order_within_pairs_alternates(file):
    _, log = row_of(file, [1, 1, 1], [1, 1, 1])
    assert [name for name, _ in log] == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]


def test_the_best_setting_of_the_peer_is_taken(file):
    row, log = row_of(file, [10, 10, 10], [5, 9, 7, 10, 10, 10], settings=("a", "b", "c"))
    assert {setting for name, setting in log[3:] if name == "theirs"} == {"b"}
    assert row["peer_command"] == "run b"
    row, _ = row_of(file, [10, 10, 10], [5, 9, 7, 10, 10, 10], settings=("a", "b", "c"), task=Task("memory", 2, 1, 1, 1))
    assert row["peer_command"] == "run a"


def test_bounds_come_from_bytes_and_operations_of_the_file(file):
    model = Model(file, "keep")
    size, operations = compare.weights_per_token(model)
    matrices = 3 * (4 * 160 * 160 + 3 * 160 * 288) + 384 * 160
    assert operations == 2 * matrices
    assert size == matrices * 34 // 32 + 7 * 160 * 4
    row, _ = row_of(file, [1000] * 3, [1] * 3)
    assert row["bound"] == pytest.approx(10e9 / size) and row["bound_fraction"] == pytest.approx(1000 * size / 10e9)
    assert compare.bound_of(Task("prefill", 2, 1, 512, 0), "q8_0", model, MACHINE) == pytest.approx(400e9 / operations)
    assert compare.bound_of(Task("prefill", 2, 1, 512, 0), "f16", model, MACHINE) == pytest.approx(100e9 / operations)
    cached = 3 * 2 * 160 * 2  # 3 layers, keys and values of 16 bits
    long = compare.bound_of(Task("long_decode", 2, 1, 4096, 64), "q8_0", model, MACHINE)
    assert long == pytest.approx(10e9 / (size + 4128 * cached))


def test_types_of_our_own_have_their_bits(file):
    size, operations = compare.weights_per_token(Model(file, "q5_1_64"))
    matrices = operations // 2
    assert size == pytest.approx(matrices * (5 + 32 / 64) / 8 + 7 * 160 * 4)
    assert [compare.bits_per_weight(name) for name in ("q3_0", "q4_1", "q8_0", "q6_1_64")] == [3.5, 5, 8.5, 6.5]


def test_model_names_drop_the_type_and_nothing_else():
    assert model_name(pathlib.Path("a/SmolLM2-135M-Instruct.Q4_1.gguf")) == "SmolLM2-135M-Instruct"
    assert model_name(pathlib.Path("tinyllama-1.1b-random.F16.gguf")) == "tinyllama-1.1b-random"
    assert model_name(pathlib.Path("tinyllama-1.1b.gguf")) == "tinyllama-1.1b"


def test_commands_are_shown_without_folders():
    assert shown(["/some/where/llama-bench", "-m", "/tmp/x.gguf", "-p", 512]) == "llama-bench -m x.gguf -p 512"


def test_weights_that_only_one_side_reads_are_refused(file):
    with pytest.raises(Unsupported, match="q6_k"):
        gguf_with_weights(file, "q6_k")


def test_unknown_model_is_named():
    with pytest.raises(Failed, match="no-such-shape"):
        compare.source_model("no-such-shape")


@pytest.mark.parametrize(
    "task",
    [Task("prefill", 1, 1, 64, 0), Task("decode", 1, 1, 1, 32), Task("batch_decode", 1, 3, 16, 24), Task("load", 1, 1, 1, 1),
     Task("memory", 1, 1, 1, 1), Task("pack_load", 1, 1, 1, 1), Task("pack_memory", 1, 1, 1, 1), Task("long_decode", 1, 1, 600, 8)],
    ids=lambda task: task.metric,
)  # fmt: skip
def test_our_side_measures_every_metric(models, task):
    _, file = models.random("tiny-test", "context=2048", gguf_type="Q8_0")
    sample = Llmir(llmir.BUILD).run(Model(file, "keep"), task, None)
    assert sample.value > 0
    assert sample.command.startswith("mpirun --bind-to none -n 1 llmir-exec")


def test_our_side_measures_types_that_no_peer_reads(models):
    _, file = models.random("tiny-test", "context=2048", gguf_type="F32")
    task = Task("prefill", 1, 1, 64, 0)
    ours, q8 = Llmir(llmir.BUILD), OwnQ8(llmir.BUILD)
    assert ours.model(file, "q5_1").weights == "q5_1" and q8.model(file, "q5_1").weights == "q8_0"
    assert ours.run(ours.model(file, "q5_1"), task, None).value > 0 and q8.run(q8.model(file, "q5_1"), task, None).value > 0


def test_the_bound_is_measured():
    shown_bound = json.loads(llmir.run([llmir.program("llmir-bound"), "--threads", 1, "--mib", 32, "--repeats", 1]).check().stdout)
    assert {read["streams"] for read in shown_bound["reads"]} == {1, 2, 4, 8}
    assert {read["huge_pages"] for read in shown_bound["reads"]} == {False, True}
    best = max(read["median"] for read in shown_bound["reads"])
    assert shown_bound["read_gb_per_s"]["median"] == best > 0.1
    assert all(shown_bound[rate]["median"] > 1 for rate in ("fp32_gflop_per_s", "bf16_gflop_per_s", "int8_gop_per_s"))
