#!/usr/bin/env python3
"""How much of the exchange between two hosts is hidden behind work in prefill. Prints JSON.

    perf/overlap.py [--build build] [--model SHAPE] [--rates 1gbit,10gbit] [--runs 3] [-o FILE]

Two hosts of one rank with one thread each, network namespaces of this machine with a link of the given rate between them
(tests/cluster/hosts.sh, needs root). Four runs in turn: a plan that exchanges and then goes on (plain), one that works
meanwhile (overlap), the plain one with int8 between the hosts (int8), and the plain one without any exchange (none). The
hidden share is 1 - (overlap - none) / (plain - none), of the medians of a prefill step's time on the slower rank. int8 cuts
the bytes that the first host's link sends in a run, less those of the run without any exchange.
"""

import argparse
import datetime
import json
import pathlib
import statistics
import sys
import tempfile

from peers.peer import Failed, execute
from provenance import REPOSITORY, current_commit, machine, own_command, write_result

HOSTS = REPOSITORY / "tests" / "cluster" / "hosts.sh"


def make_plan(build, model, weights, tokens, options, output):
    execute([build / "bin" / "llmir-plan", model, "-o", output, "--tp", 2, "--weights", weights, "--context", tokens + 16,
             "--max-batch", 1, "--prefill-chunk", tokens, *options])  # fmt: skip


def prefill_step(build, plan, rate, prompts, folder, *options):
    """Seconds of a prefill step on the slower rank, and the bytes that the first host sends in the run."""
    report, sent = folder / "report.json", folder / "sent"
    # One token: no decode step.
    execute([HOSTS, "--rate", rate, "--sent", sent, "1,1", "--", build / "bin" / "llmir-exec", plan, "--random-weights", "--prompts", prompts,
             "--max-tokens", 1, "--ignore-eos", "--forget-prefixes", "--threads", 1, "--quiet", "--report", report, *options])  # fmt: skip
    programs = [next(p for p in rank["programs"] if p["program"] == "mixed") for rank in json.loads(report.read_text())["ranks"]]
    slower = max(programs, key=lambda program: program["total_us"] / program["runs"])
    return slower["total_us"] / slower["runs"] / 1e6, int(sent.read_text().split()[0])


def measure(arguments, rate, plans, prompts, folder):
    seconds = {"plain": [], "overlap": [], "int8": [], "none": []}
    sent = {name: [] for name in seconds}
    for _ in range(arguments.runs):
        for name, values in seconds.items():
            plan, options = (plans["plain"], ["--without-exchange"]) if name == "none" else (plans[name], [])
            time, bytes_sent = prefill_step(arguments.build, plan, rate, prompts, folder, *options)
            values.append(time)
            sent[name].append(bytes_sent)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    exchange = medians["plain"] - medians["none"]
    link_bytes = {name: statistics.median(values) for name, values in sent.items()}
    return {
        "rate": rate,
        "hidden_share": 1 - (medians["overlap"] - medians["none"]) / exchange,
        "median_seconds": medians,
        "seconds": seconds,
        "link_bytes": link_bytes,
        "int8_cuts_bytes": (link_bytes["plain"] - link_bytes["none"]) / (link_bytes["int8"] - link_bytes["none"]),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--model", default="tinyllama-1.1b", help="a shape in configs/models (default: %(default)s)")
    parser.add_argument("--weights", default="q4_0")
    parser.add_argument("--tokens", type=int, default=512, help="of the prefill step (default: %(default)s)")
    parser.add_argument("--rates", default="1gbit,10gbit", help="of the link, as tc writes them (default: %(default)s)")
    parser.add_argument("--overlap", default="halves", help="llmir-plan --overlap of the overlapping plan (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each plan (default: %(default)s)")
    parser.add_argument("-o", "--output", type=pathlib.Path)
    arguments = parser.parse_args()
    model = REPOSITORY / "configs" / "models" / f"{arguments.model}.yaml"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        plans = {plan: folder / f"{plan}.fb" for plan in ("plain", "overlap", "int8")}
        make = lambda options, plan: make_plan(arguments.build, model, arguments.weights, arguments.tokens, options, plan)  # noqa: E731
        plain = ["--overlap", "none", "--disable", "llm-split-collectives"]
        make(plain, plans["plain"])
        make([*plain, "--wire", "int8"], plans["int8"])
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
        "command": own_command(),
        "machine": machine(),
        "model": arguments.model,
        "weights": arguments.weights,
        "tokens": arguments.tokens,
        "overlap": arguments.overlap,
        "links": links,
    }
    write_result(result, arguments.output)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"overlap: error: {error}")
