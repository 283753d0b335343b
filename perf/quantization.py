#!/usr/bin/env python3
"""Perplexity of SmolLM2 in every way of storing its weights, through llmir-exec --score.

Collects activations on configs/calibration/mixed.jsonl, then plans and scores each row. The scored text is that of
tests/golden: the first 20,000 bytes of the GPL 3 as Debian installs it, in chunks of 512 tokens of which the second half
counts, as llama-perplexity does. llama.cpp's figures for the same weights and text, measured once, stand in REFERENCE.
"""

import argparse
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from peers.peer import SMOLLM2
from provenance import REPOSITORY, current_commit

CALIBRATION = REPOSITORY / "configs" / "calibration" / "mixed.jsonl"
TEXT = pathlib.Path("/usr/share/common-licenses/GPL-3")
TEXT_BYTES = 20000
CHUNK = 512
# llama.cpp on the same file, text and chunks; q4_0 made from the f32 weights.
REFERENCE = {"f32": 18.34, "q8_0": 18.359, "q4_0": 22.94}
# Bits per weight in llama.cpp's q4_0 file: 4.5 in the layers, 8.5 in the embedding.
Q4_0_FILE_BITS = 5.349

# The layers of the source lie on the q4_1 grid (its embedding is q8_0): a mix that may take q4_1 keeps it where it can.
# OTHERS shows what the method does by itself, for a model that lies on no grid.
OTHERS = "q3_1_64,q3_0,q3_1,q4_1_64,q4_0,q5_1_64,q5_0,q6_0,q6_1_64,q8_0"
ROWS = {
    "f32": ["--weights", "f32"],
    "bf16": ["--weights", "bf16"],
    "bf16, bf16 activations": ["--weights", "bf16", "--bf16-activations"],
    "q8": ["--weights", "q8"],
    "keep": ["--weights", "keep"],
    "q4_0 rtn": ["--weights", "q4_0"],
    "q4_0 awq": ["--weights", "q4_0", "--method", "awq"],
    "q4_0 gptq": ["--weights", "q4_0", "--method", "gptq"],
    "q4_1_64 rtn": ["--weights", "q4_1_64"],
    "q4_1_64 gptq": ["--weights", "q4_1_64", "--method", "gptq"],
    "q5_0 rtn": ["--weights", "q5_0"],
    "q5_1 rtn": ["--weights", "q5_1"],
    # AWQ's factors take the matrices of the layers off the source's grid.
    "q5_0 awq": ["--weights", "q5_0", "--method", "awq"],
    "q5_1 awq": ["--weights", "q5_1", "--method", "awq"],
    **{
        f"auto:{bits} {method}{suffix}": ["--weights", f"auto:{bits}bpw", "--method", method, *types]
        for bits in ("4.5", "5", Q4_0_FILE_BITS, "5.5")
        for method in ("rtn", "gptq")
        for suffix, types in (("", []), (" off the grid", ["--types", OTHERS]))
    },
}


class Failed(Exception):
    """A command that went wrong, with what it said."""


def execute(command):
    begin = time.monotonic()
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        raise Failed(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout, time.monotonic() - begin


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Bench:
    """Plans and scores of one model in a folder for temporary files."""

    def __init__(self, build, model, folder):
        self.build, self.model, self.folder = pathlib.Path(build), pathlib.Path(model), pathlib.Path(folder)
        self.activations = self.folder / "activations.json"
        self.collect_seconds = None
        self.chunks = None

    def program(self, name):
        return self.build / "bin" / name

    def plan(self, name, *options):
        path = self.folder / f"{name}.fb"
        _, seconds = execute([self.program("llmir-plan"), self.model, "-o", path, *options])
        return path, seconds

    def collect(self):
        """The activations of the calibration text."""
        path, _ = self.plan("collect", "--weights", "f32", "--context", "2048")
        _, self.collect_seconds = execute(
            [self.program("llmir-exec"), path, "--score", CALIBRATION, "--collect-activations", self.activations, "--quiet"]
        )

    def tokenize(self):
        """The scored text in chunks of ids, by LLMIR's own tokenizer, which the tests hold against the reference's."""
        path, _ = self.plan("tokenize", "--context", "8192", "--max-batch", "1")
        text = TEXT.read_bytes()[:TEXT_BYTES].decode()
        prompts, output = self.folder / "text.jsonl", self.folder / "text-ids.jsonl"
        prompts.write_text(json.dumps({"prompt": text}) + "\n", encoding="utf-8")
        execute([self.program("llmir-exec"), path, "--prompts", prompts, "--output", output, "--max-tokens", 1, "--quiet"])
        ids = read_lines(output)[0]["prompt_ids"]
        chunks = [ids[begin : begin + CHUNK] for begin in range(0, len(ids) - CHUNK + 1, CHUNK)]
        self.chunks = self.folder / "chunks.jsonl"
        self.chunks.write_text("".join(json.dumps({"prompt_ids": chunk}) + "\n" for chunk in chunks), encoding="utf-8")

    def score(self, plan):
        output = self.folder / "logprobs.jsonl"
        execute([self.program("llmir-exec"), plan, "--score", self.chunks, "--output", output, "--quiet"])
        # Entry i is the log-probability of id i + 1.
        scored = [value for line in read_lines(output) for value in line["logprobs"][CHUNK // 2 : CHUNK - 1]]
        return math.exp(-sum(scored) / len(scored))

    def row(self, name):
        options = list(ROWS[name])
        calibrated = "--method" in options
        if calibrated:
            options += ["--activations", self.activations]
            if options[options.index("--method") + 1] != "rtn":
                options += ["--pack", self.folder / "row.pack"]
        path, seconds = self.plan("row", "--context", "2048", *options)
        shown = json.loads(execute([self.program("llmir-inspect"), "show", path, "--json"])[0])
        mix, bits, count = {}, 0, 0
        for weight in shown["weights"]:
            tensors = [shown["tensors"][piece] for piece in weight["pieces"]]
            values = sum(int(tensor["rows"]) * int(tensor["columns"]) for tensor in tensors)
            if int(tensors[0]["rows"]) == 1:
                continue
            mix[weight["dtype"]] = mix.get(weight["dtype"], 0) + values
            bits += values * BITS[weight["dtype"]]
            count += values
        return {
            "name": name,
            "options": [str(option.name if isinstance(option, pathlib.Path) else option) for option in options],
            "perplexity": self.score(path),
            "bits_per_weight": bits / count,
            "mix": {dtype: values / count for dtype, values in sorted(mix.items())},
            "plan_seconds": seconds,
        }


BITS = {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5}
for few in (3, 4, 5, 6):
    BITS |= {f"q{few}_0": few + 0.5, f"q{few}_1": few + 1, f"q{few}_1_64": few + 0.5}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", default=REPOSITORY / "build", help="where bin/llmir-plan is")
    parser.add_argument("--model", default=SMOLLM2, help="the GGUF file")
    parser.add_argument("--json", help="write the rows to this file")
    parser.add_argument("--rows", nargs="*", choices=list(ROWS), default=list(ROWS), help="only these")
    arguments = parser.parse_args()
    result = {
        "command": "perf/quantization.py " + " ".join(sys.argv[1:]),
        "commit": current_commit(),
        "model": pathlib.Path(arguments.model).name,
        "reference": REFERENCE,
        "rows": [],
    }
    try:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(arguments.build, arguments.model, folder)
            bench.tokenize()
            bench.collect()
            result["collect_seconds"] = bench.collect_seconds
            result["machine"] = json.loads(bench.activations.read_text(encoding="utf-8"))["machine"]
            for name in arguments.rows:
                row = bench.row(name)
                result["rows"].append(row)
                print(f"{name:28} {row['bits_per_weight']:7.3f} bits {row['perplexity']:9.4f}  planned in {row['plan_seconds']:.1f} s", flush=True)
                if arguments.json:
                    pathlib.Path(arguments.json).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    except Failed as failure:
        sys.exit(f"quantization: error: {failure}")


if __name__ == "__main__":
    main()
