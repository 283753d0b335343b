"""Wrong input: one clear line that names the thing, a non-zero exit on every rank, within seconds."""

import json
import os
import shutil
import struct

import gguf
import llmir
import pytest

OPTIONS = ("--weights", "keep", "--context", 64, "--max-batch", 2, "--block-size", 16)
TRAILER = struct.Struct("<QQHHI8s")  # plan_schema/plan_file.h: checksum, features, major, minor, 0, magic


def assert_refused(result, *words):
    """Non-zero, soon, and one error line with all `words` in it."""
    assert result.status != 0, result.stdout
    lines = result.error_lines()
    assert len(lines) == 1, f"{len(lines)} error lines:\n{result.stderr}"
    for word in words:
        assert str(word) in lines[0], f"'{word}' is not in: {lines[0]}"
    assert result.seconds < llmir.REFUSAL_S


def plan_refused(model, folder, *words, options=OPTIONS):
    output = folder / "refused.plan.fb"
    result = llmir.run([llmir.program("llmir-plan"), model, "-o", output, *options])
    assert_refused(result, *words)
    assert not output.exists()
    return result


def execute_alone(job, *options, **arguments):
    """A plan of one rank needs no mpirun, which takes a second to end after a failure."""
    return llmir.run([llmir.program("llmir-exec"), job.plan, *options], **arguments)


def execute(plan_path, *options, ranks=1):
    return llmir.mpi(ranks, [llmir.program("llmir-exec"), plan_path, *options])


@pytest.fixture(scope="module")
def tiny(models):
    return models.random("tiny-test", gguf_type="Q8_0")


@pytest.fixture(scope="module")
def job(models, tiny):
    return models.job(tiny[1], *OPTIONS)


@pytest.fixture(scope="module")
def two_ranks(models, tiny):
    return models.job(tiny[1], *OPTIONS, tp=2)


# ------------------------------------------------------------------------------------------------------------- the planner


def test_missing_checkpoint(tmp_path):
    plan_refused(tmp_path / "no-such.gguf", tmp_path, "no-such.gguf")


def test_truncated_gguf(tiny, tmp_path):
    data = tiny[1].read_bytes()
    for size in (len(data) - 1, len(data) // 2, 1000, 30, 3):
        (tmp_path / "short.gguf").write_bytes(data[:size])
        plan_refused(tmp_path / "short.gguf", tmp_path, "short.gguf")


def test_random_bytes_as_gguf(tmp_path):
    (tmp_path / "noise.gguf").write_bytes(bytes((i * 7919 + 13) % 251 for i in range(5000)))
    plan_refused(tmp_path / "noise.gguf", tmp_path, "noise.gguf")


def test_empty_file_as_gguf(tmp_path):
    (tmp_path / "empty.gguf").touch()
    plan_refused(tmp_path / "empty.gguf", tmp_path, "empty.gguf")


def test_truncated_safetensors(tiny, tmp_path):
    shutil.copytree(tiny[0], tmp_path / "model")
    file = tmp_path / "model" / "model.safetensors"
    os.truncate(file, file.stat().st_size - 1)
    plan_refused(tmp_path / "model", tmp_path, "model.safetensors")


def test_folder_without_config(tiny, tmp_path):
    shutil.copytree(tiny[0], tmp_path / "model")
    (tmp_path / "model" / "config.json").unlink()
    plan_refused(tmp_path / "model", tmp_path, "config.json")


def test_config_that_contradicts_the_tensors(tiny, tmp_path):
    shutil.copytree(tiny[0], tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "intermediate_size": 256}))
    plan_refused(tmp_path / "model", tmp_path, "288", "256")


def test_other_architecture_is_named(tiny, tmp_path):
    shutil.copytree(tiny[0], tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "architectures": ["MambaForCausalLM"], "model_type": "mamba"}))
    plan_refused(tmp_path / "model", tmp_path, "amba")


@pytest.mark.parametrize(
    ("option", "value"),
    [("--tp", "0"), ("--tp", "99999"), ("--tp", "-1"), ("--tp", "two"), ("--pp", "0"), ("--pp", "99999"), ("--context", "0"),
     ("--max-batch", "0"), ("--block-size", "17"), ("--weights", "q2"), ("--kv-dtype", "q1"), ("--prefill-chunk", "0")],
)  # fmt: skip
def test_wrong_option_value(tiny, tmp_path, option, value):
    plan_refused(tiny[1], tmp_path, option, value, options=(option, value))


def test_more_ranks_than_heads_says_how_many_there_are(tiny, tmp_path):
    plan_refused(tiny[1], tmp_path, "6", "5", options=("--tp", 6))


def test_unknown_option(tiny, tmp_path):
    plan_refused(tiny[1], tmp_path, "--no-such-option", options=("--no-such-option",))


def test_output_folder_that_cannot_be_made(tiny, tmp_path):
    (tmp_path / "file").touch()
    result = llmir.run([llmir.program("llmir-plan"), tiny[1], "-o", tmp_path / "file" / "plan.fb", *OPTIONS])
    assert_refused(result, "plan.fb")


# ---------------------------------------------------------------------------------------------------------------- the plan


def test_missing_plan(tmp_path):
    assert_refused(execute(tmp_path / "no-such.plan.fb", "--prompt", "x"), "no-such.plan.fb")


@pytest.mark.parametrize("ranks", [1, 2])
def test_truncated_plan(job, tmp_path, ranks):
    data = job.plan.read_bytes()
    for size in (0, 10, len(data) // 2, len(data) - 1):
        (tmp_path / "short.plan.fb").write_bytes(data[:size])
        assert_refused(execute(tmp_path / "short.plan.fb", "--prompt", "x", ranks=ranks), "short.plan.fb")


def test_random_bytes_as_plan(tmp_path):
    (tmp_path / "noise.plan.fb").write_bytes(bytes((i * 7919 + 13) % 251 for i in range(5000)))
    assert_refused(execute(tmp_path / "noise.plan.fb", "--prompt", "x"), "noise.plan.fb")


def test_damaged_plan(job, tmp_path):
    data = bytearray(job.plan.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged.plan.fb").write_bytes(data)
    assert_refused(execute(tmp_path / "damaged.plan.fb", "--prompt", "x"), "damaged.plan.fb", "checksum")


def test_plan_of_a_later_major_version(job, tmp_path):
    data = bytearray(job.plan.read_bytes())
    checksum, features, major, minor, zero, magic = TRAILER.unpack_from(data, len(data) - TRAILER.size)
    TRAILER.pack_into(data, len(data) - TRAILER.size, checksum, features, major + 41, minor, zero, magic)
    (tmp_path / "later.plan.fb").write_bytes(data)
    assert_refused(execute(tmp_path / "later.plan.fb", "--prompt", "x"), "later.plan.fb", f" {major + 41}.", f" {major}.")


def test_plan_that_needs_an_unknown_feature(job, tmp_path):
    data = bytearray(job.plan.read_bytes())
    checksum, features, major, minor, zero, magic = TRAILER.unpack_from(data, len(data) - TRAILER.size)
    TRAILER.pack_into(data, len(data) - TRAILER.size, checksum, features | 1 << 63, major, minor, zero, magic)
    (tmp_path / "feature.plan.fb").write_bytes(data)
    assert_refused(execute(tmp_path / "feature.plan.fb", "--prompt", "x"), "feature.plan.fb", "63")


@pytest.mark.sanitizer
@pytest.mark.parametrize("ranks", [1, 3])
def test_wrong_number_of_ranks(two_ranks, ranks):
    assert_refused(execute(two_ranks.plan, "--prompt", "x", ranks=ranks), ranks, 2)


# ---------------------------------------------------------------------------------------------------------- the checkpoint


def test_checkpoint_gone_since_planning(two_ranks, tmp_path):
    shutil.copy(two_ranks.plan, tmp_path / "plan.fb")
    assert_refused(execute(tmp_path / "plan.fb", "--prompt", "x", ranks=2), ".gguf")


def test_other_checkpoint_than_planned(models, two_ranks):
    _, other = models.random("tiny-test", "mlp_columns=320", gguf_type="Q8_0")
    assert_refused(execute(two_ranks.plan, "--model", other, "--prompt", "x", ranks=2), other.name)


@pytest.mark.sanitizer
@pytest.mark.parametrize("tensor", ["blk.1.ffn_down.weight", "blk.0.attn_q.weight", "output_norm.weight", "token_embd.weight"])
def test_one_flipped_byte_names_tensor_and_leaf(models, tiny, tmp_path, tensor):
    copy = tmp_path / "model.gguf"
    shutil.copy2(tiny[1], copy)
    before = copy.stat()
    plan_path = llmir.plan(copy, tmp_path / "plan.fb", *OPTIONS, "--tp", 2)
    entry = next(t for t in gguf.GGUFReader(copy).tensors if t.name == tensor)
    with open(copy, "r+b") as file:
        file.seek(entry.data_offset + entry.n_bytes // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 0x10]))
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = copy.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert_refused(execute(plan_path, "--prompt", "x", ranks=2), tensor, "leaf")


def test_checkpoint_found_relative_to_the_plan(tiny, tmp_path):
    """A folder that holds plan and checkpoint can be moved."""
    (tmp_path / "before").mkdir()
    shutil.copy(tiny[1], tmp_path / "before" / "model.gguf")
    llmir.plan(tmp_path / "before" / "model.gguf", tmp_path / "before" / "plan.fb", *OPTIONS)
    (tmp_path / "before").rename(tmp_path / "after")
    execute(tmp_path / "after" / "plan.fb", "--prompt", "the", "--max-tokens", 2).check()


# ------------------------------------------------------------------------------------------------------------ the requests


@pytest.mark.sanitizer
@pytest.mark.parametrize("layout", ["job", "two_ranks"])
def test_prompt_longer_than_the_context(request, layout):
    chosen = request.getfixturevalue(layout)
    prompts = llmir.write_jsonl(chosen.new_folder() / "prompts.jsonl", [{"prompt_ids": [5] * 65}])
    assert_refused(chosen.run("--prompts", prompts, "--output", prompts.with_name("output.jsonl")), 65, 64)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "the"', ["prompts.jsonl", "2"]),
        ('{"text": "the"}', ["prompts.jsonl", "2", "prompt"]),
        ('{"prompt": 5}', ["prompts.jsonl", "2", "prompt"]),
        ('{"prompt_ids": [5, 384]}', ["prompts.jsonl", "2", "384"]),
        ('{"prompt_ids": [-1]}', ["prompts.jsonl", "2", "-1"]),
        ('{"prompt_ids": []}', ["prompts.jsonl", "2"]),
        ('{"prompt": "the", "temperature": -1}', ["prompts.jsonl", "2", "temperature"]),
        ('{"prompt": "the", "top_p": 2}', ["prompts.jsonl", "2", "top_p"]),
        ('{"prompt": "the", "max_tokens": "many"}', ["prompts.jsonl", "2", "max_tokens"]),
        ('{"messages": [{"role": "user"}]}', ["prompts.jsonl", "2", "content"]),
        ("[1, 2]", ["prompts.jsonl", "2"]),
    ],
)
def test_wrong_prompt_line_is_named(job, line, words):
    prompts = job.new_folder() / "prompts.jsonl"
    prompts.write_text('{"prompt": "the"}\n' + line + "\n")
    assert_refused(execute_alone(job, "--prompts", prompts, "--output", prompts.with_name("output.jsonl")), *words)


def test_missing_prompts_file(two_ranks, tmp_path):
    output = tmp_path / "output.jsonl"
    assert_refused(two_ranks.run("--prompts", tmp_path / "no-such.jsonl", "--output", output), "no-such.jsonl")
    assert not output.exists()


# Options that prompt lines have too are named as there.
@pytest.mark.parametrize(
    ("option", "value", "name"),
    [("--temperature", "-1", "temperature"), ("--top-p", "1.5", "top_p"), ("--min-p", "-0.1", "min_p"), ("--top-k", "-2", "--top-k"),
     ("--max-tokens", "0", "--max-tokens"), ("--threads", "-1", "--threads")],
)  # fmt: skip
def test_wrong_sampling_option(job, option, value, name):
    assert_refused(execute_alone(job, "--prompt", "the", option, value), name, value)


def test_unknown_isa(job):
    result = execute_alone(job, "--prompt", "the", environment={"LLMIR_CPU_ISA": "mmx"})
    assert_refused(result, "LLMIR_CPU_ISA", "mmx")


@pytest.mark.parametrize("program", ["llmir-plan", "llmir-exec", "llmir-inspect"])
def test_help_and_version_work_without_anything_else(program):
    assert "--help" in llmir.run([llmir.program(program), "--help"]).check().stdout
    assert "0." in llmir.run([llmir.program(program), "--version"]).check().stdout
