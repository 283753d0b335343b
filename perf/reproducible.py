#!/usr/bin/env python3
"""What --reproducible costs a decode step: the same layout planned with and without it, run in turn.

    perf/reproducible.py MODEL [--build build] [--tp 1,2,4] [--batch 1,8] [--pairs 9] [--json FILE]

A row states the median time of a decode step of both, and of the ratios of neighbouring runs (reproducible to plain tokens per
second: above 1 it is faster) the median, the least and the greatest. A rank has one thread, but the cores of the machine where
it is alone. Start, load and prefill are not in the figures.
"""

import argparse
import json
import os
import pathlib
import statistics
import sys
import tempfile

from peers.llmir import ENVIRONMENT
from peers.peer import Failed, execute
from provenance import REPOSITORY, current_commit, machine, own_command

PROMPT_TOKENS = 16


class Layout:
    """Both plans of one layout, and runs of them."""

    def __init__(self, arguments, folder, tp, batch):
        self.arguments = arguments
        self.folder = folder
        self.tp = tp
        self.prompts = folder / "prompts.jsonl"
        ids = [[(37 * i + 101 * s) % 200 for i in range(PROMPT_TOKENS)] for s in range(batch)]
        self.prompts.write_text("".join(json.dumps({"prompt_ids": line}) + "\n" for line in ids))
        for name, extra in (("plain", []), ("reproducible", ["--reproducible"])):
            execute([arguments.build / "bin" / "llmir-plan", arguments.model, "-o", folder / f"{name}.fb", "--tp", tp,
                     "--max-batch", batch, "--context", 512, *extra])  # fmt: skip

    def run(self, name):
        """Microseconds of a decode step on the first rank, and the ISA."""
        report = self.folder / "report.json"
        threads = self.arguments.threads if self.tp == 1 else 1
        execute(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", self.tp, self.arguments.build / "bin" / "llmir-exec",
                 self.folder / f"{name}.fb", "--prompts", self.prompts, "--output", self.folder / "output.jsonl", "--max-tokens",
                 self.arguments.tokens, "--ignore-eos", "--quiet", "--threads", threads, "--report", report], environment=ENVIRONMENT)  # fmt: skip
        values = json.loads(report.read_text())
        decode = next(program for program in values["ranks"][0]["programs"] if program["program"] == "decode")
        return decode["total_us"] / decode["runs"], values["ranks"][0]["isa"]


def measure(arguments, tp, batch):
    with tempfile.TemporaryDirectory() as folder:
        layout = Layout(arguments, pathlib.Path(folder), tp, batch)
        times = {"plain": [], "reproducible": []}
        for name in times:
            layout.run(name)  # warms up
        for pair in range(arguments.pairs):
            # In turn first, so that neither always runs on the machine that the other has warmed.
            for name in sorted(times, reverse=pair % 2 == 0):
                us, isa = layout.run(name)
                times[name].append(us)
    ratios = [plain / other for plain, other in zip(times["plain"], times["reproducible"])]
    return {
        "tp": tp, "batch": batch, "pairs": arguments.pairs, "tokens": arguments.tokens, "isa": isa,
        "plain_us": statistics.median(times["plain"]), "reproducible_us": statistics.median(times["reproducible"]),
        "throughput_ratio": statistics.median(ratios), "least": min(ratios), "greatest": max(ratios),
    }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--tp", default="1,2,4", help="ranks, separated by commas (default: 1,2,4)")
    parser.add_argument("--batch", default="1,8", help="sequences in a step, separated by commas (default: 1,8)")
    parser.add_argument("--pairs", type=int, default=9, help="runs of each plan (default: 9)")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer (default: 64)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of a rank that is alone (default: all cores)")
    parser.add_argument("--json", type=pathlib.Path, help="rows are added to those of this file")
    arguments = parser.parse_args()
    rows = []
    if arguments.json and arguments.json.exists():
        rows = json.loads(arguments.json.read_text())["rows"]
    for tp in map(int, arguments.tp.split(",")):
        for batch in map(int, arguments.batch.split(",")):
            row = measure(arguments, tp, batch)
            rows = [other for other in rows if (other["tp"], other["batch"]) != (tp, batch)] + [row]
            print(f"tp {tp} batch {batch}: plain {row['plain_us']:.0f} us, reproducible {row['reproducible_us']:.0f} us a step,"
                  f" throughput {row['throughput_ratio']:.3f} ({row['least']:.3f} to {row['greatest']:.3f})", flush=True)  # fmt: skip
    if arguments.json:
        result = {"command": own_command(), "commit": current_commit(), "model": arguments.model.name,
                  "machine": machine(),
                  "rows": sorted(rows, key=lambda row: (row["tp"], row["batch"]))}  # fmt: skip
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"reproducible: error: {error}")
