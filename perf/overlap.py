#!/usr/bin/env python3
"""How much of the exchange between two hosts is hidden behind work in prefill. Prints JSON.

    perf/overlap.py [--build build] [--model SHAPE] [--rates 1gbit,10gbit] [--runs 3] [-o FILE]

Two hosts of one rank with one thread each, network namespaces of this machine with a link of the given rate between them
(tests/cluster/hosts.sh, needs root). Three runs in turn: a plan that exchanges and then goes on (plain), one that works
meanwhile (overlap), and the plain plan without any exchange (none). The hidden share is
1 - (overlap - none) / (plain - none), of the medians of a prefill step's time on the slower rank.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import sys
import tempfile

from peers.peer import Failed, execute
from provenance import REPOSITORY, current_commit, machine

HOSTS = REPOSITORY / "tests" / "cluster" / "hosts.sh"


def make_plan(build, model, weights, tokens, options, output):
    execute([build / "bin" / "llmir-plan", model, "-o", output, "--tp", 2, "--weights", weights, "--context", tokens + 16,
             "--max-batch", 1, "--prefill-chunk", tokens, *options])  # fmt: skip


def prefill_step(build, plan, rate, prompts, folder, *options):
    """Seconds of a prefill step on the slower rank, and the bytes that it sends there."""
    report = folder / "report.json"
    # One token: no decode step.
    execute([HOSTS, "--rate", rate, "1,1", "--", build / "bin" / "llmir-exec", plan, "--random-weights", "--prompts", prompts,
             "--max-tokens", 1, "--ignore-eos", "--forget-prefixes", "--threads", 1, "--quiet", "--report", report, *options])  # fmt: skip
    programs = [next(p for p in rank["programs"] if p["program"] == "mixed") for rank in json.loads(report.read_text())["ranks"]]
    slower = max(programs, key=lambda program: program["total_us"] / program["runs"])
    sent = sum(step.get("message_bytes", 0) for step in slower["steps"])
    return slower["total_us"] / slower["runs"] / 1e6, sent / slower["runs"]


def measure(arguments, rate, plans, prompts, folder):
    seconds = {"plain": [], "overlap": [], "none": []}
    sent = {}
    for _ in range(arguments.runs):
        for name, values in seconds.items():
            plan, options = (plans["plain"], ["--without-exchange"]) if name == "none" else (plans[name], [])
            time, sent[name] = prefill_step(arguments.build, plan, rate, prompts, folder, *options)
            values.append(time)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    exchange = medians["plain"] - medians["none"]
    return {
        "rate": rate,
        "hidden_share": 1 - (medians["overlap"] - medians["none"]) / exchange,
        "median_seconds": medians,
        "seconds": seconds,
        "message_bytes": {name: sent[name] for name in ("plain", "overlap")},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--model", default="tinyllama-1.1b", help="a shape in configs/models (default: %(default)s)")
    parser.add_argument("--weights", default="q4_0")
    parser.add_argument("--tokens", type=int, default=512, help="of the prefill step (default: %(default)s)")
    parser.add_argument("--rates", default="1gbit,10gbit", help="of the link, as tc writes them (default: %(default)s)")
    parser.add_argument("--overlap", default="auto", help="llmir-plan --overlap of the overlapping plan (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each plan (default: %(default)s)")
    parser.add_argument("-o", "--output", type=pathlib.Path)
    arguments = parser.parse_args()
    model = REPOSITORY / "configs" / "models" / f"{arguments.model}.yaml"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        plans = {"plain": folder / "plain.fb", "overlap": folder / "overlap.fb"}
        make = lambda options, plan: make_plan(arguments.build, model, arguments.weights, arguments.tokens, options, plan)  # noqa: E731
        make(["--overlap", "none", "--disable", "llm-split-collectives"], plans["plain"])
        make(["--overlap", arguments.overlap], plans["overlap"])
        prompts = folder / "prompts.jsonl"
        shown = json.loads(execute([arguments.build / "bin" / "llmir-inspect", "show", plans["plain"], "--json"]))
        vocabulary = shown["model"]["vocabulary"]
        lines = [{"prompt_ids": [(i * 37 + s * 101 + 11) % vocabulary for i in range(arguments.tokens)]} for s in range(2)]
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
        links = [measure(arguments, rate, plans, prompts, folder) for rate in arguments.rates.split(",")]
    result = {
        "date": datetime.date.today().isoformat(),
        "commit": current_commit(),
        "command": " ".join(["perf/overlap.py", *sys.argv[1:]]),
        "machine": machine(),
        "model": arguments.model,
        "weights": arguments.weights,
        "tokens": arguments.tokens,
        "overlap": arguments.overlap,
        "links": links,
    }
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"overlap: error: {error}")
