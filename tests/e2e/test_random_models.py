"""Logits of random models: against a double-precision forward pass, for both checkpoint formats, every type of weights,
every way of splitting the model over ranks, every ISA family."""

import llmir
import numpy as np
import pytest
import reference

OPTIONS = ("--context", 256, "--max-batch", 4, "--block-size", 16, "--prefill-chunk", 48)
PROMPT = [int(i) for i in (np.arange(100) * 37 + 11) % 384]
FORCED = [int(i) for i in (np.arange(20) * 101 + 3) % 384]

# Shapes that no cut divides: query heads with their own KV heads, groups of 3 and of 4 cut inside, short last leaves.
SHAPES = {
    "5-heads": ("tiny-test",),
    "6-heads-2-kv": ("tiny-test", "query_heads=6", "kv_heads=2", "hidden=192"),
    "4-heads-1-kv-tied": ("tiny-test", "query_heads=4", "kv_heads=1", "hidden=128", "head_dim=64", "tied_head=true", "vocabulary=400"),
    "7-heads-wide-head-dim": ("tiny-test", "query_heads=7", "kv_heads=7", "hidden=96", "head_dim=128", "layers=4"),
}
LAYOUTS = {
    "tp2": (2, 1), "tp3": (3, 1), "tp4": (4, 1), "pp2": (1, 2), "pp3": (1, 3), "tp2-pp2": (2, 2),
}  # fmt: skip


def forced_logits(job, *options, **arguments):
    """Logits after the prompt and after each forced id but the last: prefill in chunks of unlike size, then decode."""
    prompt = {"prompt_ids": PROMPT, "force_ids": FORCED}
    lines, (logits,) = job.generate_with_logits([prompt], "--max-tokens", len(FORCED), "--ignore-eos", *options, **arguments)
    assert lines[0]["ids"] == FORCED
    return logits


def expected_logits(model):
    return model.logits(PROMPT + FORCED)[len(PROMPT) - 1 : -1]


@pytest.mark.sanitizer
@pytest.mark.parametrize("shape", SHAPES)
def test_fp32_logits_equal_double_precision(models, shape):
    folder, file = models.random(*SHAPES[shape])
    expected = expected_logits(reference.from_hugging_face(folder))
    from_folder = forced_logits(models.job(folder, "--weights", "f32", *OPTIONS))
    np.testing.assert_allclose(from_folder, expected, atol=2e-4)
    from_gguf = forced_logits(models.job(file, "--weights", "f32", *OPTIONS))
    # The same values, but rotary pairs lie elsewhere, so sums of scores run in another order.
    np.testing.assert_allclose(from_gguf, from_folder, atol=2e-4)


@pytest.mark.parametrize("scaling", ["{rope_type: linear, factor: 4.0}",
                                     "{rope_type: llama3, factor: 8.0, low_freq_factor: 1.0, high_freq_factor: 4.0,"
                                     " original_max_position_embeddings: 64}"])  # fmt: skip
def test_rope_scaling_is_applied(models, scaling):
    folder, file = models.random("tiny-test", f"rope_scaling={scaling}")
    expected = expected_logits(reference.from_hugging_face(folder))
    for model in (folder, file):
        np.testing.assert_allclose(forced_logits(models.job(model, "--weights", "f32", *OPTIONS)), expected, atol=5e-4)


@pytest.mark.parametrize("stored", ["F16", "BF16"])
def test_half_precision_checkpoints_are_read_exactly(models, stored):
    """With `--weights keep` the values are those of the file and sums are fp32; the KV cache is asked to be fp32 too."""
    folder, file = models.random("tiny-test", hf_type=stored, gguf_type=stored)
    expected = expected_logits(reference.from_hugging_face(folder))
    for model in (folder, file):
        job = models.job(model, "--weights", "keep", "--kv-dtype", "f32", *OPTIONS)
        np.testing.assert_allclose(forced_logits(job), expected, atol=2e-4)


@pytest.mark.sanitizer
@pytest.mark.parametrize("layout", [(1, 1), (2, 2)])
def test_bf16_activations_are_rounded_to_the_nearest(models, layout):
    """Closer to a forward pass that rounds what each matrix is multiplied with than that is to one that doesn't. The rest, a
    half, are values that lie so close to the middle between two that floats and doubles round them apart; a pass that leaves
    out the rounding of one role's inputs is off by 0.8 of it or more."""
    tp, pp = layout
    folder, file = models.random("tiny-test", hf_type="BF16", gguf_type="BF16")
    exact = reference.from_hugging_face(folder)
    rounded = expected_logits(reference.ModelWithBF16Activations(exact.config, exact.weights))
    of_the_rounding = relative_error(rounded, expected_logits(exact))
    for model in (folder, file):
        job = models.job(model, "--weights", "keep", "--bf16-activations", "--kv-dtype", "f32", *OPTIONS, tp=tp, pp=pp)
        assert relative_error(forced_logits(job), rounded) < 0.7 * of_the_rounding


def test_bf16_activations_give_the_same_bits_in_every_family_and_packed(models, tmp_path):
    folder, _ = models.random("tiny-test", hf_type="BF16")
    options = ("--weights", "keep", "--bf16-activations", *OPTIONS)
    job = models.job(folder, *options)
    portable, *others = (forced_logits(job, environment={"LLMIR_CPU_ISA": isa}) for isa in supported_families())
    for logits in others:
        # Sums of attention have their own order in each family.
        np.testing.assert_allclose(logits, portable, atol=5e-3)
    packed = models.job(folder, *options, "--pack", tmp_path / "model.pack")
    np.testing.assert_array_equal(forced_logits(packed), forced_logits(job))


def test_bf16_activations_need_bf16_weights_and_are_not_reproducible(models, tmp_path):
    folder, _ = models.random("tiny-test")
    for options, words in [(("--weights", "q8", "--pack", tmp_path / "p"), "no weight is bf16"), (("--weights", "bf16", "--reproducible"), "--reproducible")]:
        command = [llmir.program("llmir-plan"), folder, "-o", tmp_path / "plan.fb", "--bf16-activations", *options, *OPTIONS]
        result = llmir.run(command)
        assert result.status == 1 and len(result.error_lines()) == 1 and words in result.error_lines()[0]
        assert not (tmp_path / "plan.fb").exists() and not (tmp_path / "p").exists()


def test_safetensors_parts_equal_one_file(models):
    whole, _ = models.random("tiny-test")
    parts, _ = models.random("tiny-test", part_bytes=1 << 20)
    a, b = (forced_logits(models.job(folder, "--weights", "f32", *OPTIONS)) for folder in (whole, parts))
    np.testing.assert_array_equal(a, b)


# Relative root mean square error of the logits against a double-precision pass over the same stored weights: what is left is
# activations in int8 (or the KV cache in bf16), a few per mille per layer.
@pytest.mark.sanitizer
@pytest.mark.parametrize("stored", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantized_checkpoints_stay_within_the_error_of_int8_activations(models, stored):
    _, file = models.random("tiny-test", gguf_type=stored)
    expected = expected_logits(reference.from_gguf(file))
    logits = forced_logits(models.job(file, "--weights", "keep", *OPTIONS))
    assert relative_error(logits, expected) < 0.03


# Against the unquantized model: the error of the format itself, measured with the `gguf` package's quantizers on this model,
# with half as much again for activations.
@pytest.mark.parametrize(("weights", "bound"), [("bf16", 0.015), ("q8", 0.03), ("q4", 0.35)])
def test_conversion_at_load_stays_within_the_error_of_the_format(models, weights, bound):
    folder, file = models.random("tiny-test")
    expected = expected_logits(reference.from_hugging_face(folder))
    for model in (folder, file):
        error = relative_error(forced_logits(models.job(model, "--weights", weights, *OPTIONS)), expected)
        assert 0 < error < bound


# Name: bits, whether groups have a minimum, values that share a scale.
FEW_BITS = {
    "q3_0": (3, False, 32), "q3_1": (3, True, 32), "q5_0": (5, False, 32), "q5_1": (5, True, 32), "q6_0": (6, False, 32),
    "q6_1": (6, True, 32), "q3_1_64": (3, True, 64), "q4_1_64": (4, True, 64), "q5_1_64": (5, True, 64), "q6_1_64": (6, True, 64),
}  # fmt: skip


@pytest.mark.parametrize("weights", FEW_BITS)
def test_few_bit_weights_are_rounded_to_the_nearest(models, weights):
    """Close to the model whose weights NumPy rounded, closer than that is to the model as it was."""
    folder, file = models.random(*SHAPES["4-heads-1-kv-tied"])
    exact = reference.from_hugging_face(folder)
    rounded = expected_logits(reference.in_block_format(exact, *FEW_BITS[weights]))
    of_the_format = relative_error(rounded, expected_logits(exact))
    for model in (folder, file):
        logits = forced_logits(models.job(model, "--weights", weights, *OPTIONS))
        assert relative_error(logits, rounded) < min(0.03, of_the_format)


def relative_error(got, expected):
    return float(np.sqrt(((got - expected) ** 2).mean() / (expected**2).mean()))


QUICK_SHAPES = ["5-heads", "6-heads-2-kv"]


@pytest.mark.parametrize("shape", [pytest.param(s, marks=[] if s in QUICK_SHAPES else pytest.mark.slow) for s in SHAPES])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_logits_of_one_rank(models, shape, layout):
    folder, _ = models.random(*SHAPES[shape])
    one = forced_logits(models.job(folder, "--weights", "f32", *OPTIONS))
    tp, pp = LAYOUTS[layout]
    split = forced_logits(models.job(folder, "--weights", "f32", *OPTIONS, tp=tp, pp=pp))
    np.testing.assert_allclose(split, one, atol=2e-4)


@pytest.mark.sanitizer
def test_a_split_quantized_model_gives_the_logits_of_one_rank(models):
    _, file = models.random("tiny-test", "query_heads=6", "kv_heads=2", "hidden=192", gguf_type="Q8_0")
    one = forced_logits(models.job(file, "--weights", "keep", *OPTIONS))
    split = forced_logits(models.job(file, "--weights", "keep", *OPTIONS, tp=2, pp=2))
    assert relative_error(split, one) < 0.01


def supported_families():
    flags = next(line for line in open("/proc/cpuinfo") if line.startswith("flags")).split()
    families = ["portable"]
    if {"avx2", "fma", "f16c"} <= set(flags):
        families.append("avx2")
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"} <= set(flags):
        families.append("avx512")
    return families


@pytest.mark.parametrize(("stored", "weights"), [(t, "keep") for t in ("F32", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1")]
                                                + [("F32", t) for t in FEW_BITS])  # fmt: skip
def test_isa_families_agree(models, stored, weights):
    _, file = models.random(*SHAPES["4-heads-1-kv-tied"], gguf_type=stored)
    job = models.job(file, "--weights", weights, *OPTIONS)
    portable, *others = (forced_logits(job, environment={"LLMIR_CPU_ISA": isa}) for isa in supported_families())
    for logits in others:
        np.testing.assert_allclose(logits, portable, atol=5e-4)


def test_threads_do_not_change_the_logits(models):
    folder, _ = models.random("tiny-test")
    job = models.job(folder, "--weights", "f32", *OPTIONS)
    one, two, three = (forced_logits(job, "--threads", count) for count in (1, 2, 3))
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(one, three)


def test_prefill_chunks_do_not_change_the_logits(models):
    folder, _ = models.random("tiny-test")
    base = ("--context", 256, "--max-batch", 4, "--block-size", 16, "--weights", "f32", "--prefill-chunk")
    whole, cut = (forced_logits(models.job(folder, *base, chunk)) for chunk in (128, 17))
    np.testing.assert_array_equal(whole, cut)


def test_block_size_does_not_change_the_logits(models):
    folder, _ = models.random("tiny-test")
    base = ("--context", 256, "--max-batch", 4, "--prefill-chunk", 48, "--weights", "f32", "--block-size")
    small, large = (forced_logits(models.job(folder, *base, size)) for size in (16, 128))
    np.testing.assert_array_equal(small, large)
