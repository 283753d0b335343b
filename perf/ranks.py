#!/usr/bin/env python3
"""Several ranks of one thread each against one rank with the machine's threads: the same weights, runs in turn.

A row is a layout (tp x pp, steps in flight as its plan says) and a metric. Both sides run in turn, the order alternating; the
row states the median of the ratios of neighbouring runs, the least and the greatest. decode: rows of decode steps by the time
they take, with --batch sequences for each step in flight; prefill: prompts of one chunk each, one per step. Where a bar holds
for the plan's cap (the best efficiency that its cut of whole leaves leaves), the ratio by the cap is stated too. Exits with 1
where a median is below its bar.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "perf"))

from compare import source_model  # noqa: E402 (found through the line above)
from peers.llamacpp import shown  # noqa: E402
from peers.llmir import ENVIRONMENT  # noqa: E402
from peers.peer import SMOLLM2, Failed, execute  # noqa: E402
from provenance import current_commit, machine  # noqa: E402

LARGE, SMALL = "tinyllama-1.1b", str(SMOLLM2)

# Name: model, tp, pp, metric, sequences per step in flight, bar (None: none), whether the bar is of the plan's cap.
ROWS = {
    "1.1b-tp2-decode": (LARGE, 2, 1, "decode", 1, 0.97, False),
    "1.1b-tp2-prefill": (LARGE, 2, 1, "prefill", 1, 0.97, False),
    "smollm2-tp2-decode": (SMALL, 2, 1, "decode", 1, 0.97, True),
    "smollm2-tp2-prefill": (SMALL, 2, 1, "prefill", 1, 0.94, True),
    "1.1b-tp4-batch8": (LARGE, 4, 1, "decode", 8, 0.80, False),
    "1.1b-pp4-batch8": (LARGE, 1, 4, "decode", 8, 0.80, False),
    "1.1b-tp2-pp2-batch8": (LARGE, 2, 2, "decode", 8, 0.80, False),
    "1.1b-tp8-batch8": (LARGE, 8, 1, "decode", 8, None, False),
    "1.1b-pp2-batch8": (LARGE, 1, 2, "decode", 8, None, False),
    "1.1b-pp2-prefill": (LARGE, 1, 2, "prefill", 1, None, False),
}
CHUNK = 512


class Bench:
    def __init__(self, build, threads, folder, decoded):
        self.bin = build / "bin"
        self.threads = threads
        self.folder = folder
        self.decoded = decoded
        self.plans = {}

    def plan(self, model, tp, pp, weights):
        """(path, what it says); its weights are packed, so that ranks map them."""
        key = (model, tp, pp, weights)
        if key not in self.plans:
            path = self.folder / f"{len(self.plans)}.plan.fb"
            execute([self.bin / "llmir-plan", source_model(model), "-o", path, "--weights", weights, "--tp", tp, "--pp", pp,
                     "--max-batch", 8, "--context", 1024, "--prefill-chunk", CHUNK, "--pack", path.with_suffix(".pack")])  # fmt: skip
            self.plans[key] = path, json.loads(execute([self.bin / "llmir-inspect", "show", path, "--json"]))
        return self.plans[key]

    def run(self, plan, ranks, threads, metric, sequences):
        """Tokens per second; and the command."""

        def ids(seed, count):
            return [(seed * 7919 + i * 104729) % 250 + 3 for i in range(count)]

        if metric == "prefill":
            lines = [{"prompt_ids": ids(1 + i, CHUNK), "max_tokens": 1} for i in range(8)]
        else:
            lines = [{"prompt_ids": ids(1 + i, 32), "max_tokens": self.decoded + 1} for i in range(sequences)]
        prompts, report = self.folder / "prompts.jsonl", self.folder / "report.json"
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", ranks, self.bin / "llmir-exec", plan, "--threads", threads,
                   "--prompts", prompts, "--output", self.folder / "output.jsonl", "--ignore-eos", "--quiet", "--report", report]  # fmt: skip
        execute(command, environment=ENVIRONMENT)
        held = json.loads(report.read_text())
        engine = held["engine"]
        value = engine["prompt_tokens"] / engine["prefill_seconds"] if metric == "prefill" else engine["decode_rows"] / engine["decode_seconds"]
        return value, shown(command), held.get("slowest")

    def row(self, name, repeats):
        model, tp, pp, metric, batch, bar, of_cap = ROWS[name]
        weights = "keep" if model == SMALL else "q4"
        alone, _ = self.plan(model, 1, 1, weights)
        plan, shown = self.plan(model, tp, pp, weights)
        depth = shown["limits"].get("steps_in_flight", 1)
        cap = min(stage["efficiency"] for stage in shown["replicas"][0]["stages"])
        pairs, command = [], ""
        for repeat in range(repeats):
            def one():
                return self.run(alone, 1, self.threads, metric, batch)

            def many():
                return self.run(plan, tp * pp, 1, metric, batch * depth)

            # The order alternates: neither side always runs on the machine that the other has warmed.
            first, second = (one, many) if repeat % 2 == 0 else (many, one)
            results = [first(), second()]
            if repeat % 2:
                results.reverse()
            pairs.append((results[0][0], results[1][0]))
            command = results[1][1]
        ratios = sorted(b / a for a, b in pairs)
        median = statistics.median(ratios)
        target = None if bar is None else bar * cap if of_cap else bar
        return {
            "row": name, "model": pathlib.Path(model).name, "weights": weights, "metric": metric, "tp": tp, "pp": pp,
            "threads_alone": self.threads, "steps_in_flight": depth, "sequences_per_step": batch, "repeats": repeats,
            "tokens_per_s_alone": statistics.median(a for a, _ in pairs), "tokens_per_s": statistics.median(b for _, b in pairs),
            "ratio": median, "least": ratios[0], "greatest": ratios[-1], "cap": cap, "ratio_of_cap": median / cap,
            "bar": bar, "bar_is_of_cap": of_cap, "met": None if target is None else median >= target, "command": command,
        }  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--row", action="append", choices=list(ROWS), help="one of them; may be given several times (default: all)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of the rank that runs alone")
    parser.add_argument("--decoded", type=int, default=48, help="tokens that each sequence decodes")
    parser.add_argument("--folder", type=pathlib.Path, help="where plans and packed weights are kept and found again")
    parser.add_argument("--json", type=pathlib.Path, help="write the rows there; rows of other names in it stay")
    arguments = parser.parse_args()
    rows = {}
    if arguments.json and arguments.json.is_file():
        rows = {row["row"]: row for row in json.loads(arguments.json.read_text())}
    with tempfile.TemporaryDirectory(prefix="llmir-ranks-") as temporary:
        bench = Bench(arguments.build, arguments.threads, pathlib.Path(arguments.folder or temporary), arguments.decoded)
        for name in arguments.row or ROWS:
            row = bench.row(name, arguments.repeats)
            rows[name] = {**row, "machine": machine(), "commit": current_commit()}
            cap = f", {row['ratio_of_cap']:.3f} of the cap {row['cap']:.3f}" if row["bar_is_of_cap"] else ""
            bar = "" if row["bar"] is None else f"; bar {row['bar']:.2f}: {'met' if row['met'] else 'MISSED'}"
            print(f"{name}: {row['tokens_per_s']:.1f} tok/s against {row['tokens_per_s_alone']:.1f}, ratio {row['ratio']:.3f}"
                  f" ({row['least']:.3f} to {row['greatest']:.3f}){cap}{bar}", flush=True)  # fmt: skip
            if arguments.json:
                arguments.json.parent.mkdir(parents=True, exist_ok=True)
                arguments.json.write_text(json.dumps(list(rows.values()), indent=1) + "\n")
    return 1 if any(rows[name]["met"] is False for name in arguments.row or ROWS) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"ranks: error: {error}")
