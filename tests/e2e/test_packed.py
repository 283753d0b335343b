"""Weights packed at planning: mapped and used in place, they give what packing at load gives, in every layout of ranks."""

import json

import llmir
import numpy as np
import pytest

OPTIONS = ("--context", 256, "--max-batch", 2, "--prefill-chunk", 32)
PROMPT = [int(i) for i in (np.arange(40) * 37 + 11) % 384]
# Three KV heads, so that three ranks have whole ones.
SHAPE = ("tiny-test", "query_heads=6", "kv_heads=3", "head_dim=64", "mlp_columns=384")
LAYOUTS = {"tp1": ("--tp", 1), "tp2": ("--tp", 2), "tp3": ("--tp", 3), "pp2": ("--pp", 2)}


def forced(job, **arguments):
    """(logits, report) of a forced continuation."""
    folder = job.new_folder()
    prompts = llmir.write_jsonl(folder / "p.jsonl", [{"prompt_ids": PROMPT, "force_ids": PROMPT[:8]}])
    result = job.run("--prompts", prompts, "--logits", folder, "--max-tokens", 8, "--ignore-eos", "--output", folder / "o.jsonl",
                     "--report", folder / "r.json", **arguments).check()  # fmt: skip
    return np.load(folder / "0.npy"), json.loads((folder / "r.json").read_text()), result.stderr


def in_file(rank):
    """Bytes that a rank has from the packed file as they are: where they lie, or copied side by side."""
    return rank["mapped_bytes"] + rank["gathered_bytes"]


def plan(model, folder, *options):
    folder.mkdir()
    path = llmir.plan(model, folder / "plan.fb", *OPTIONS, *options)
    return llmir.Job(path, llmir.ranks_of(path), folder)


@pytest.mark.parametrize("weights", ["f16", "q8_0", "q4_0", "q4_1"])
def test_packed_weights_give_the_same_bits_in_every_layout(models, tmp_path, weights):
    _, model = models.random(*SHAPE)
    packs = []
    for name, layout in LAYOUTS.items():
        options = ("--weights", weights, *layout)
        expected, _, _ = forced(plan(model, tmp_path / name, *options))
        packs.append(tmp_path / f"{name}.pack")
        got, report, _ = forced(plan(model, tmp_path / f"{name}-packed", *options, "--pack", packs[-1]))
        np.testing.assert_array_equal(got, expected, err_msg=name)
        for rank in report["ranks"]:
            assert rank["repacked_weights"] == 0 and in_file(rank) == rank["packed_bytes"] > rank["gathered_bytes"], name
            # What ranks sum over is cut by columns.
            assert (rank["gathered_bytes"] > 0) == (name in ("tp2", "tp3")), name
            assert rank["load"]["pack_seconds"] < rank["load_seconds"]
    assert len({pack.read_bytes() for pack in packs}) == 1, "one file for every layout"


def test_calibrated_weights_give_the_same_bits_in_every_layout(models, tmp_path):
    """Bit for bit where no sum crosses ranks (two stages); within 1e-3 of one rank where it does."""
    _, model = models.random(*SHAPE)
    texts = [np.random.default_rng(3).integers(0, 384, 90).tolist() for _ in range(6)]
    lines = llmir.write_jsonl(tmp_path / "t.jsonl", [{"prompt_ids": ids} for ids in texts])
    models.job(model, "--weights", "f32", *OPTIONS).run("--score", lines, "--collect-activations", tmp_path / "a.json").check()
    options = ("--weights", "q4_0", "--method", "gptq", "--activations", tmp_path / "a.json", "--kv-dtype", "f32")
    logits = {}
    for name, layout in LAYOUTS.items():
        job = plan(model, tmp_path / name, *options, *layout, "--pack", tmp_path / f"{name}.pack")
        logits[name], report, _ = forced(job)
        assert all(in_file(rank) == rank["packed_bytes"] for rank in report["ranks"])
    assert len({(tmp_path / f"{name}.pack").read_bytes() for name in LAYOUTS}) == 1
    np.testing.assert_array_equal(logits["pp2"], logits["tp1"])
    # Ranks' sums are added in another order.
    for name in ("tp2", "tp3"):
        np.testing.assert_allclose(logits[name], logits["tp1"], atol=1e-3)


def test_panels_of_another_family_are_packed_again_with_one_line(models, tmp_path):
    _, model = models.random(*SHAPE)
    other = {"LLMIR_CPU_ISA": "portable"}
    expected, _, _ = forced(plan(model, tmp_path / "fly", "--weights", "q8_0"), environment=other)
    # Signed quants, as all but AVX-512 read them, and those with an offset.
    for family, again in (("avx2", False), ("avx512", True)):
        job = plan(model, tmp_path / family, "--weights", "q8_0", "--pack", tmp_path / f"{family}.pack", "--pack-isa", family)
        got, report, stderr = forced(job, environment=other)
        np.testing.assert_array_equal(got, expected)
        assert stderr.count("packed again") == (1 if again else 0)
        assert (report["ranks"][0]["repacked_weights"] > 0) == again


def test_heads_narrower_than_a_panel_are_packed_again_on_the_ranks_that_begin_within_one(models, tmp_path):
    _, model = models.random("tiny-test", "query_heads=6", "kv_heads=3", "head_dim=8", "hidden=64")
    for weights in ("f16", "f32"):
        expected, _, _ = forced(plan(model, tmp_path / weights, "--weights", weights, "--tp", 2))
        got, report, _ = forced(plan(model, tmp_path / f"{weights}-p", "--weights", weights, "--tp", 2, "--pack", tmp_path / f"{weights}.pack"))
        np.testing.assert_array_equal(got, expected)
        assert report["ranks"][1]["repacked_weights"] > 0


def test_a_damaged_truncated_or_foreign_packed_file_is_named(models, tmp_path):
    _, model = models.random(*SHAPE)
    for tp in (1, 2):
        pack = tmp_path / f"{tp}.pack"
        job = plan(model, tmp_path / f"tp{tp}", "--weights", "q4_0", "--tp", tp, "--pack", pack)
        good = pack.read_bytes()
        index = json.loads(good[24 : 24 + int.from_bytes(good[16:24], "little")])
        places = [(weight["name"], weight["offset"] + at) for weight in index["weights"] for at in (0, weight["bytes"] // 2, weight["bytes"] - 1)]

        def refused(data, word):
            pack.write_bytes(data)
            result = job.run("--prompts", llmir.write_jsonl(job.folder / "p.jsonl", [{"prompt_ids": [1]}]))
            assert result.status != 0 and len(result.error_lines()) == 1
            assert pack.name in result.error_lines()[0] and word in result.error_lines()[0], result.error_lines()[0]

        refused(good[:-4096], "bytes")
        refused(good[:100], "bytes")
        refused(b"X" + good[1:], "--pack")
        refused(good[:8] + bytes([77]) + good[9:], "version 77")
        refused(good[:40] + bytes([good[40] ^ 1]) + good[41:], "header hash")
        for name, at in places[:: max(1, len(places) // 5)]:
            refused(good[:at] + bytes([good[at] ^ 16]) + good[at + 1 :], "hash")
        pack.unlink()
        result = job.run("--prompts", job.folder / "p.jsonl")
        assert result.status != 0 and "--pack" in result.error_lines()[0]


def test_what_cannot_be_packed_is_refused_in_one_line(models, tmp_path):
    _, model = models.random(*SHAPE)
    shape = llmir.REPOSITORY / "configs" / "models" / "tiny-test.yaml"
    for source, options, word in (
        (model, ("--pack", tmp_path / "p", "--pack-isa", "sse"), "portable, avx2 or avx512"),
        (model, ("--pack-isa", "avx2"), "--pack"),
        (shape, ("--pack", tmp_path / "p"), "shape"),
        (model, ("--pack", tmp_path / "missing" / "p"), "missing"),
    ):
        result = llmir.run([llmir.program("llmir-plan"), source, "-o", tmp_path / "plan.fb", *options])
        assert result.status != 0 and len(result.error_lines()) == 1 and word in result.error_lines()[0], result.stderr
        assert not (tmp_path / "plan.fb").exists() and not (tmp_path / "p").exists()
