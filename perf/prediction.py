#!/usr/bin/env python3
"""Holds llmir-inspect simulate's predictions against runs: configurations drawn by a seed, after the calibration is frozen.

    llmir-exec --calibrate machine.json
    perf/prediction.py --calibration machine.json --json perf/results/prediction.json

Each row is one configuration with as many threads as cores at most: a model, types, a layout, a batch and lengths. It runs twice,
one prompt at a time for the time to first token, and the batch for the time per token. Right before and after each run
llmir-bound measures read bandwidth and multiply-adds again (the mean counts), and the prediction is scaled by what they were at calibration over what they
are now, by nothing else: the time per token by reading, the time to first token by multiply-adds. Both predictions are in the row.

--layouts also plans SmolLM2 by search and measures every layout of the host's cores beside the chosen one.
"""

import argparse
import json
import pathlib
import random
import statistics
import sys
import tempfile

from peers.llmir import ENVIRONMENT
from peers.peer import SMOLLM2, Failed, execute
from provenance import REPOSITORY, current_commit

# A shape of the size of larger models' layers, few enough of them that a row takes seconds.
SIX_LAYERS = "tinyllama-1.1b"
# (tp, pp, threads of a rank)
LAYOUTS = [(1, 1, 2), (1, 1, 1), (2, 1, 1), (1, 2, 1)]
OVERSUBSCRIBED = [(2, 2, 1), (3, 1, 1), (1, 4, 1)]
ANSWER = 48


def draw(seed, count, cores):
    """`count` configurations, the same for the same seed."""
    source = random.Random(seed)
    fits = [layout for layout in LAYOUTS if layout[0] * layout[1] * layout[2] <= cores]
    rows = []
    for number in range(count):
        oversubscribed = number >= count - max(1, count // 8)
        tp, pp, threads = source.choice(OVERSUBSCRIBED if oversubscribed else fits)
        rows.append({
            "number": number,
            "model": source.choice(["smollm2", "smollm2", SIX_LAYERS]),
            "weights": source.choice(["q4", "q8", "bf16", "q4"]),
            "kv": source.choice(["bf16", "int8"]),
            "block_size": source.choice([16, 64]),
            "overlap": source.choice(["auto", "none", "halves", "scatter"]),
            "tp": tp,
            "pp": pp,
            "threads": threads,
            "batch": source.choice([1, 2, 4, 8]),
            "prompt": source.choice([48, 96, 200, 400]),
            "oversubscribed": oversubscribed,
        })  # fmt: skip
    return rows


def ids(seed, count):
    """Ids that vary from prompt to prompt, so that nothing could be reused."""
    return [(seed * 7919 + i * 104729) % 250 + 3 for i in range(count)]


class Bench:
    def __init__(self, build, folder, calibration):
        self.bin, self.folder, self.calibration = build / "bin", folder, calibration
        self.shape = folder / "six-layers.yaml"
        text = (REPOSITORY / "configs" / "models" / f"{SIX_LAYERS}.yaml").read_text()
        self.shape.write_text(text.replace("layers: 22", "layers: 6"))

    def bound(self, threads):
        """What the machine gives now: bytes and operations per second, the best of a few passes."""
        found = json.loads(execute([self.bin / "llmir-bound", "--threads", threads, "--mib", 512, "--repeats", 2]))
        return {
            "read_gb_per_s": found["read_gb_per_s"]["max"],
            "fp32_gflop_per_s": found["fp32_gflop_per_s"]["max"],
            "int8_gop_per_s": found["int8_gop_per_s"]["max"],
        }

    def plan(self, row, batch, prompt, *options):
        path = self.folder / "plan.fb"
        model = SMOLLM2 if row["model"] == "smollm2" else self.shape
        execute([self.bin / "llmir-plan", model, "-o", path, "--tp", row["tp"], "--pp", row["pp"], "--weights", row["weights"],
                 "--kv-dtype", row["kv"], "--block-size", row["block_size"], "--overlap", row["overlap"], "--max-batch", batch,
                 "--prefill-chunk", max(batch * prompt, 64), "--context", prompt + ANSWER + 16,
                 "--calibration", self.calibration, *options])  # fmt: skip
        return path

    def run(self, plan, row, lines):
        """(output lines, report)"""
        prompts, output, report = (self.folder / name for name in ("prompts.jsonl", "output.jsonl", "report.json"))
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
        words = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", row["tp"] * row["pp"], self.bin / "llmir-exec", plan,
                 "--threads", row["threads"], "--prompts", prompts, "--output", output, "--report", report,
                 "--ignore-eos", "--forget-prefixes", "--quiet"]  # fmt: skip
        if row["model"] != "smollm2":
            words.append("--random-weights")
        execute(words, environment=ENVIRONMENT)
        return [json.loads(line) for line in output.read_text().splitlines()], json.loads(report.read_text())

    def simulate(self, plan, row, batch, prompt):
        return json.loads(execute([self.bin / "llmir-inspect", "simulate", plan, "--calibration", self.calibration,
                                   "--threads", row["threads"], "--batch", batch, "--prompt", prompt, "--answer", ANSWER,
                                   "--context", prompt + ANSWER / 2, "--json"]))  # fmt: skip

    def first_token(self, row):
        """(predicted, measured) microseconds of one prompt after others."""
        # One step in flight: else the stages of a pipeline work for two prompts at once.
        plan = self.plan(row, 1, row["prompt"], "--steps-in-flight", 1)
        predicted = self.simulate(plan, row, 1, row["prompt"])["first_token_us"]
        lines, _ = self.run(plan, row, [{"prompt_ids": ids(i + 1, row["prompt"]), "max_tokens": 1} for i in range(5)])
        # One sequence at a time: each begins when the one before it has ended.
        ends = [line["ttft_ms"] + line["decode_ms"] for line in lines]
        return predicted, statistics.median(line["ttft_ms"] - end for line, end in zip(lines[1:], ends)) * 1e3

    def tokens(self, row):
        """Predicted and measured time per token of a batch, and peak memory of the largest rank."""
        plan = self.plan(row, row["batch"], row["prompt"])
        simulated = self.simulate(plan, row, row["batch"], row["prompt"])
        prompts = [{"prompt_ids": ids(10 + i, row["prompt"]), "max_tokens": ANSWER + 1} for i in range(row["batch"])]
        lines, report = self.run(plan, row, prompts)
        measured = statistics.median(line["decode_ms"] for line in lines) / ANSWER * 1e3
        return {
            "token_us": {"predicted": simulated["token_us"], "measured": measured},
            "peak_bytes": {
                "predicted": max(rank["peak_bytes"] for rank in simulated["decode"]["ranks"]),
                "measured": max(rank["peak_resident_bytes"] for rank in report["ranks"]),
            },
        }


def error(pair, scale=1.0):
    return pair["predicted"] * scale / pair["measured"] - 1


def measure(bench, row, at_calibration):
    threads = min(row["tp"] * row["pp"] * row["threads"], max(int(t) for t in at_calibration))
    # The stages of a pipeline with one step in flight take turns.
    busy = min(row["tp"] * row["threads"], threads)
    before = at_calibration[str(busy)]
    bounds = [bench.bound(busy)]
    predicted, measured = bench.first_token(row)
    bounds.append(bench.bound(busy))
    tokens = bench.tokens(row)
    bounds.append(bench.bound(busy))
    result = {**row, "bounds": bounds, "first_token_us": {"predicted": predicted, "measured": measured}, **tokens}
    arithmetic = "fp32_gflop_per_s" if row["weights"] == "bf16" else "int8_gop_per_s"
    mean = lambda name, first: (bounds[first][name] + bounds[first + 1][name]) / 2  # noqa: E731
    result["scale"] = {"read": before["read_gb_per_s"] / mean("read_gb_per_s", 1), "arithmetic": before[arithmetic] / mean(arithmetic, 0)}
    result["error"] = {
        "token": error(result["token_us"]),
        "token_scaled": error(result["token_us"], result["scale"]["read"]),
        "first_token": error(result["first_token_us"]),
        "first_token_scaled": error(result["first_token_us"], result["scale"]["arithmetic"]),
        "peak": error(result["peak_bytes"]),
    }
    return result


def median_errors(rows):
    return {name: statistics.median(abs(row["error"][name]) for row in rows) for name in rows[0]["error"]} if rows else {}


def measure_layouts(bench, cores):
    """The layout that a search takes for one request at a time, and every layout of the host, measured."""
    cluster = bench.folder / "host.yaml"
    cluster.write_text(
        f"name: host\nnodes:\n  - {{name: host, cores: {cores}, memory_gb: 8, read_gb_per_s: 20, gflop_per_s: 100,"
        " link: {latency_us: 0.5, gb_per_s: 10}}\n"
    )
    rows = []
    for weights in ("q4", "q8", "bf16"):
        path = bench.folder / "searched.fb"
        printed = execute([bench.bin / "llmir-plan", SMOLLM2, "-o", path, "--cluster", cluster, "--ranks", cores, "--weights", weights,
                           "--max-batch", 1, "--context", 512, "--calibration", bench.calibration])  # fmt: skip
        shown = json.loads(execute([bench.bin / "llmir-inspect", "show", path, "--json"]))
        chosen = [len(stage["ranks"]) for stage in shown["replicas"][0]["stages"]]
        times = {}
        for tp, pp in [(1, 1), (2, 1), (1, 2)]:
            row = {"model": "smollm2", "weights": weights, "kv": "bf16", "block_size": shown["kv"]["block_size"], "overlap": "auto",
                   "tp": tp, "pp": pp, "threads": cores // (tp * pp), "batch": 1, "prompt": 200}  # fmt: skip
            repeats = [bench.tokens(row)["token_us"]["measured"] for _ in range(3)]
            times["+".join([str(tp)] * pp)] = {"median": statistics.median(repeats), "min": min(repeats), "max": max(repeats)}
        best = min(times, key=lambda name: times[name]["median"])
        name = "+".join(map(str, chosen))
        rows.append({"weights": weights, "chosen": name, "best": best, "token_us": times,
                     "chosen_over_best": times[name]["median"] / times[best]["median"],
                     "reason": next(line for line in printed.splitlines() if "ms per token" in line)})  # fmt: skip
    return rows


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calibration", type=pathlib.Path, required=True, help="what llmir-exec --calibrate wrote; it is not changed")
    parser.add_argument("--json", type=pathlib.Path, required=True, help="results; rows that are there already are kept")
    parser.add_argument("--seed", type=int, default=20, help="of the configurations (default: 20)")
    parser.add_argument("--count", type=int, default=32, help="configurations, the last eighth with more ranks than cores (default: 32)")
    parser.add_argument("--only", metavar="A:B", help="rows A to B - 1, so that a long run can be made in parts")
    parser.add_argument("--layouts", action="store_true", help="measure the chosen layout beside the others instead")
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build", help="(default: build)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    text = arguments.calibration.read_bytes()
    calibration = json.loads(text)
    cores = calibration["machine"]["cores"]
    with tempfile.TemporaryDirectory(prefix="llmir-prediction-") as name:
        bench = Bench(arguments.build, pathlib.Path(name), arguments.calibration.resolve())
        result = json.loads(arguments.json.read_text()) if arguments.json.is_file() else {}
        if "bound_at_calibration" not in result:
            # Right after the calibration: on an idle machine they are the same.
            result = {
                "command": f"perf/prediction.py --seed {arguments.seed} --count {arguments.count}",
                "commit": current_commit(),
                "machine": calibration["machine"],
                "seed": arguments.seed,
                "calibrated_at": calibration["commit"],
                "bound_at_calibration": {str(t): bench.bound(t) for t in sorted({1, cores})},
                "rows": [],
            }
        if arguments.layouts:
            result["layouts"] = measure_layouts(bench, cores)
            for row in result["layouts"]:
                print(f"{row['weights']:5} chosen {row['chosen']:5} best {row['best']:5} chosen/best {row['chosen_over_best']:.3f}")
        else:
            first, _, end = (arguments.only or f"0:{arguments.count}").partition(":")
            known = {row["number"]: row for row in result["rows"]}
            for row in draw(arguments.seed, arguments.count, cores)[int(first) : int(end)]:
                known[row["number"]] = measured = measure(bench, row, result["bound_at_calibration"])
                shown = " ".join(f"{name} {100 * value:+.1f}" for name, value in measured["error"].items())
                print(f"{row['number']:3} {row['model']:14} {row['weights']:5} tp {row['tp']} pp {row['pp']} threads {row['threads']}"
                      f" batch {row['batch']} prompt {row['prompt']:3} {row['overlap']:8} errors, %: {shown}", flush=True)  # fmt: skip
            result["rows"] = [known[number] for number in sorted(known)]
            result["median_errors"] = median_errors([row for row in result["rows"] if not row["oversubscribed"]])
            result["median_errors_oversubscribed"] = median_errors([row for row in result["rows"] if row["oversubscribed"]])
            for name in ("median_errors", "median_errors_oversubscribed"):
                print(name, {key: f"{100 * value:.1f} %" for key, value in result[name].items()})
        if arguments.calibration.read_bytes() != text:
            raise Failed(f"{arguments.calibration} changed while predictions were made from it")
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        sys.exit(f"prediction: error: {failure}")
