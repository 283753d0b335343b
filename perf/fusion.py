#!/usr/bin/env python3
"""What appending and attending in one pass saves: data reads (callgrind), the kernels' time, the step's time. Prints JSON.

    perf/fusion.py --build build [--model MODEL] [--pairs 400] [-o FILE]

Reads are counted with the AVX2 kernels, since valgrind doesn't know AVX-512. With --model, plans with and without the fused
step are run in turn, and the decode step's time of each is given.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

# Floats in an AVX2 register: 16 lanes of keys or values take two loads.
REGISTER_FLOATS = 8


def count_reads(build, mode, steps, options, folder):
    """Data reads of llmir-fusion running `steps` steps."""
    out = pathlib.Path(folder) / f"callgrind.{mode}.{steps}"
    command = ["valgrind", "--tool=callgrind", "--cache-sim=yes", f"--callgrind-out-file={out}",
               str(build / "bin" / "llmir-fusion"), "--run", mode, "--steps", str(steps), *options]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "LLMIR_CPU_ISA": "avx2"})
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: exited with {done.returncode}\n{done.stderr[-2000:]}")
    fields = dict(line.split(":", 1) for line in out.read_text().splitlines() if line.startswith(("events:", "summary:", "totals:")))
    totals = fields.get("summary", fields.get("totals"))
    return int(dict(zip(fields["events"].split(), totals.split()))["Dr"])


def data_reads(build, shape):
    """Reads per step of both, their difference, and what the shapes say that it is.

    The new token opens a group of 16 tokens (the context is a multiple of 16): after the append, attention alone reads one
    vector of keys per dimension and head_dim / 16 vectors of values, per sequence and KV head.
    """
    options = [word for key, value in shape.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    steps = 8
    with tempfile.TemporaryDirectory() as folder:
        reads = {
            mode: (count_reads(build, mode, 1 + steps, options, folder) - count_reads(build, mode, 1, options, folder)) / steps
            for mode in ("unfused", "fused")
        }
    vectors = shape["batch"] * shape["kv_heads"] * (shape["head_dim"] + shape["head_dim"] // 16)
    return {
        **shape,
        **reads,
        "difference": reads["unfused"] - reads["fused"],
        "expected": vectors * 16 // REGISTER_FLOATS,
    }


def kernel_times(build, pairs, **options):
    words = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
    command = [str(build / "bin" / "llmir-fusion"), "--pairs", str(pairs), *words]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def step_times(build, model, runs):
    """Median microseconds of a decode step of `batch` sequences, from runs of both plans in turn."""
    batch, tokens = 32, 64
    times = {"fused": [], "unfused": []}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        prompts = folder / "prompts.jsonl"
        ids = [[(i * 37 + s * 101) % 200 for i in range(32)] for s in range(batch)]
        prompts.write_text("".join(json.dumps({"prompt_ids": line}) + "\n" for line in ids))
        for name, extra in (("fused", []), ("unfused", ["--disable", "llm-fuse-append-attention"])):
            subprocess.run([str(build / "bin" / "llmir-plan"), str(model), "-o", str(folder / f"{name}.fb"), "--max-batch",
                            str(batch), "--context", "256", *extra], check=True, capture_output=True)  # fmt: skip
        for _ in range(runs):
            for name in times:
                report = folder / "report.json"
                subprocess.run([str(build / "bin" / "llmir-exec"), str(folder / f"{name}.fb"), "--prompts", str(prompts), "--output",
                                str(folder / "output.jsonl"), "--max-tokens", str(tokens), "--ignore-eos", "--quiet", "--report",
                                str(report)], check=True, capture_output=True)  # fmt: skip
                times[name].append(decode_step_us(json.loads(report.read_text())))
    ratios = [a / b for a, b in zip(times["fused"], times["unfused"])]
    return {"batch": batch, "runs": runs, "ratio": statistics.median(ratios),
            **{f"{name}_us": statistics.median(values) for name, values in times.items()}}  # fmt: skip


def decode_step_us(report):
    """Mean microseconds of a decode step on the first rank."""
    decode = next(program for program in report["ranks"][0]["programs"] if program["program"] == "decode")
    return decode["total_us"] / decode["runs"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--model", type=pathlib.Path, help="also time whole decode steps of this model")
    parser.add_argument("--pairs", type=int, default=400, help="timed pairs of the kernels (default: 400)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each plan (default: 5)")
    parser.add_argument("--no-callgrind", action="store_true")
    parser.add_argument("-o", "--output", type=pathlib.Path)
    arguments = parser.parse_args()
    result = {}
    if not arguments.no_callgrind:
        shape = {"batch": 32, "context": 64, "query_heads": 9, "kv_heads": 3, "head_dim": 64}
        result["data_reads"] = [data_reads(arguments.build, {**shape, "kv": kv}) for kv in ("bf16", "f32")]
    result["kernels"] = [
        kernel_times(arguments.build, arguments.pairs, kv=kv, threads=threads) for kv in ("bf16", "f32") for threads in (1, 2)
    ]
    if arguments.model:
        result["step"] = step_times(arguments.build, arguments.model, arguments.runs)
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
