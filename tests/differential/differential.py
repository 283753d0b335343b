#!/usr/bin/env python3
"""Optimized plans against unoptimized ones, on random models.

Each seed makes a random small model (shape, stored type, prompts) and plans it twice and more: once with every optimization
disabled, and then with sets of options, each of which says how its logits must compare with another plan's: bit for bit
where only schedule, fusion or placement differ (the order of sums is kept), within a stated bound otherwise.

    tests/differential/differential.py --models 500 --json differential.json
"""

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import platform
import random
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "perf")]
import llmir  # noqa: E402 (found through the line above)
import make_model  # noqa: E402

# Root mean square of the difference over that of the logits. Sums in another order move float32 logits by rounding; with
# bf16 or 8-bit keys and values, or int8 activations, such a difference may move a value over a rounding border, which is
# one part in 2^8 of that value. Measured over 500 seeds: see the JSON's "worst".
BOUND_FLOAT = 2e-5
BOUND_ROUNDED = 3e-2

UNOPTIMIZED = ("--disable=kv,precision,parallel,attention",)


@dataclasses.dataclass
class Model:
    """What a seed decides, and what all of its plans have in common."""

    seed: int
    words: list  # of make_model.load_shape
    folder_type: str
    gguf_type: str
    from_gguf: bool
    common: list  # options that change numbers, or limits
    exact: bool  # float weights and float KV: differences are those of float32 sums
    prompts: list


@dataclasses.dataclass
class Variant:
    """A set of options, and which plan's logits its own must equal: bit for bit, or within the model's bound."""

    name: str
    options: list
    ranks: int = 1
    like: str = "unoptimized"
    bitwise: bool = True


def draw_model(seed):
    draw = random.Random(seed)
    head_dim = draw.choice([16, 32, 32, 64, 64, 80, 128])
    kv_heads = draw.choice([1, 1, 2, 3, 4])
    query_heads = kv_heads * draw.choice([1, 2, 3, 4])
    # A head is a leaf, which may not cut a block of 32 stored values: the planner refuses such a file.
    stored = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]
    gguf_type = draw.choice(stored if head_dim % 32 == 0 else stored[:3])
    from_gguf = gguf_type.startswith("Q") or draw.random() < 0.5
    shape = {
        "layers": draw.choice([1, 2, 3, 4]),
        "hidden": 32 * draw.randint(2, 8),
        "query_heads": query_heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "mlp_columns": 32 * draw.randint(2, 12),
        "vocabulary": 16 * draw.randint(17, 30),
        "tied_head": draw.choice(["true", "false"]),
    }
    weights = draw.choice(["keep", "keep", "f32", "bf16", "q8", "q4"])
    kv = draw.choice(["f32", "f32", "bf16"])
    quantized = weights in ("q8", "q4") or (weights == "keep" and gguf_type.startswith("Q"))
    vocabulary = shape["vocabulary"]
    prompts = []
    for _ in range(draw.randint(1, 4)):
        length, answer = draw.choice([1, 2, 15, 16, 17, 40, 90]), draw.randint(1, 6)
        prompts.append(
            {
                "prompt_ids": [draw.randrange(vocabulary) for _ in range(length)],
                "force_ids": [draw.randrange(vocabulary) for _ in range(answer)],
            }
        )
    common = ["--weights", weights, "--kv-dtype", kv, "--context", 128]
    words = ["tiny-test", *(f"{key}={value}" for key, value in shape.items())]
    return Model(seed, words, draw.choice(["F32", "F16", "BF16"]), gguf_type, from_gguf, common, kv == "f32" and not quantized, prompts)


def draw_variants(model):
    """The unoptimized plan, the default one, and some drawn sets of options."""
    draw = random.Random(model.seed + 1_000_003)
    shape = make_model.load_shape(model.words)
    limits = ["--max-batch", 4, "--prefill-chunk", 48]
    variants = [
        Variant("unoptimized", [*UNOPTIMIZED, *limits]),
        Variant("default", limits),
    ]
    drawn = [
        Variant("without-fusion", [f"--disable={draw.choice(FINER)}", *limits]),
        Variant("block-size", ["--block-size", draw.choice([32, 64, 128]), *limits]),
        Variant("chunks", ["--max-batch", draw.choice([1, 2, 8]), "--prefill-chunk", draw.choice([5, 17, 64])]),
    ]
    if shape["layers"] > 1:
        pp = draw.randint(2, min(3, shape["layers"]))
        drawn.append(Variant(f"pp{pp}", ["--pp", pp, *limits], ranks=pp))
    form = draw.choice(["fused-softmax", "masked", "standard", "flash,no-share-kv"])
    drawn.append(Variant(f"attention-{form}", ["--attention", form, *limits], bitwise=False))
    # Every rank needs a leaf of each: a query head, 64 columns of the MLP, 64 rows of the vocabulary.
    largest = min(4, shape["query_heads"], (shape["mlp_columns"] + 63) // 64, (shape["vocabulary"] + 63) // 64)
    if largest > 1:
        tp = draw.randint(2, largest)
        stages = draw.randint(1, min(2, shape["layers"]))
        cut = ["--tp", tp, "--pp", stages, *limits]
        plain = Variant(f"tp{tp}-pp{stages}", [*cut, "--disable=parallel"], ranks=tp * stages, bitwise=False)
        # The passes that move communication keep every sum: bit for bit the plain cut's logits.
        variants.append(plain)
        for overlap in OVERLAPS:
            drawn.append(Variant(f"{plain.name}-{overlap}", [*cut, "--overlap", overlap], ranks=tp * stages, like=plain.name))
    return variants + draw.sample(drawn, min(3, len(drawn)))


# Passes that can be disabled by themselves, and ways to overlap.
FINER = ["llm-fuse-norm-quantize", "llm-fuse-residual", "llm-fuse-append-attention", "kv", "precision", "fusion", "attention"]
OVERLAPS = ["none", "halves", "auto"]


def logits_of(model, source, variant, folder):
    """[generated positions, vocabulary] per prompt."""
    folder.mkdir()
    plan = folder / "plan.fb"
    llmir.plan(source, plan, *model.common, *variant.options)
    job = llmir.Job(plan, variant.ranks, folder)
    longest = max(len(prompt["force_ids"]) for prompt in model.prompts)
    _, arrays = job.generate_with_logits(model.prompts, "--max-tokens", longest, "--ignore-eos", "--threads", 1)
    return arrays


def relative_error(got, expected):
    difference = np.concatenate([(g.astype(np.float64) - e).ravel() for g, e in zip(got, expected)])
    reference = np.concatenate([e.astype(np.float64).ravel() for e in expected])
    return float(np.sqrt((difference**2).mean() / (reference**2).mean()))


def compare(variant, bound, got, expected):
    """What is wrong with `got`; empty: nothing."""
    if any(g.shape != e.shape for g, e in zip(got, expected)):
        return f"{variant.name}: shapes differ from {variant.like}'s"
    if not all(np.isfinite(g).all() for g in got):
        return f"{variant.name}: logits that are no numbers"
    if variant.bitwise:
        if all(np.array_equal(g, e) for g, e in zip(got, expected)):
            return ""
        return f"{variant.name}: not bit for bit {variant.like}'s, relative error {relative_error(got, expected):.2e}"
    error = relative_error(got, expected)
    return "" if error <= bound else f"{variant.name}: relative error {error:.2e} to {variant.like}, bound {bound:.0e}"


def run_seed(seed):
    """One random model with all its variants. Keys: seed, model, variants, failures, worst (relative error by kind)."""
    begin = time.monotonic()
    model = draw_model(seed)
    variants = draw_variants(model)
    bound = BOUND_FLOAT if model.exact else BOUND_ROUNDED
    failures, worst, logits = [], 0.0, {}
    with tempfile.TemporaryDirectory(prefix="llmir-differential-") as name:
        folder = pathlib.Path(name)
        shape = make_model.load_shape(model.words)
        file = make_model.make_model(shape, seed, folder / "model", True, True, model.folder_type, model.gguf_type, 4 << 30)
        source = file if model.from_gguf else folder / "model"
        for index, variant in enumerate(variants):
            try:
                logits[variant.name] = logits_of(model, source, variant, folder / f"{index}")
            except (AssertionError, subprocess.TimeoutExpired) as error:
                failures.append(f"{variant.name}: {str(error)[-2000:]}")
                continue
            if variant.name == "unoptimized" or variant.like not in logits:
                continue
            problem = compare(variant, bound, logits[variant.name], logits[variant.like])
            if problem:
                failures.append(problem)
            elif not variant.bitwise:
                worst = max(worst, relative_error(logits[variant.name], logits[variant.like]))
    return {
        "seed": seed,
        "model": " ".join(model.words[1:]) + f" {model.gguf_type if model.from_gguf else model.folder_type}",
        "common": " ".join(map(str, model.common)),
        "variants": [f"{v.name}: {' '.join(map(str, v.options))}" for v in variants],
        "failures": failures,
        "exact": model.exact,
        "worst": worst,
        "seconds": round(time.monotonic() - begin, 2),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=500, metavar="N", help="random models (default 500)")
    parser.add_argument("--seed", type=int, default=1, help="of the first model; the others follow (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="models at a time (default: one per core)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every model's result here")
    arguments = parser.parse_args()
    results = []
    begin = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs) as pool:
        for result in pool.map(run_seed, range(arguments.seed, arguments.seed + arguments.models)):
            results.append(result)
            for failure in result["failures"]:
                print(f"\nseed {result['seed']} ({result['model']}, {result['common']}): {failure}", file=sys.stderr)
            failed = sum(bool(r["failures"]) for r in results)
            print(f"\r{len(results)}/{arguments.models} models, {failed} with failures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    worst = {
        name: max((r["worst"] for r in results if r["exact"] == exact), default=0.0)
        for name, exact in (("float", True), ("rounded", False))
    }
    summary = {
        "command": " ".join(sys.argv),
        "commit": subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip(),
        "machine": platform.processor() or platform.machine(),
        "models": len(results),
        "plans": sum(len(r["variants"]) for r in results),
        "failed": sum(bool(r["failures"]) for r in results),
        "bounds": {"float": BOUND_FLOAT, "rounded": BOUND_ROUNDED},
        "worst": worst,
        "seconds": round(time.monotonic() - begin, 1),
        "results": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"differential: {summary['models']} models, {summary['plans']} plans, {summary['failed']} models with failures, "
          f"worst relative error {worst['float']:.1e} (float), {worst['rounded']:.1e} (rounded), {summary['seconds']} s")  # fmt: skip
    return 1 if summary["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
