#!/usr/bin/env python3
"""What the paging of the KV cache is worth: the paper's Fig. 2 and Table II on this machine. Prints JSON, draws plots.

    perf/kv_memory.py [MODEL.gguf] [--tokens 8192] [--requests 64] [-o FILE] [--plots FOLDER]

All configurations have the same number of tokens in KV memory and run the same workload (perf/workload.py, all requests at
once), in turns, so that what is wasted is missing for others. `improvement` is the median over the turns of a configuration's
tokens per second beside those of the contiguous one, `least` and `most` its range.

Fig. 2 (block_size.svg): block sizes from 16 tokens up; generated tokens per second, and memory efficiency, the part of the
held room that has a token in it.
Table II (configurations.svg): contiguous, a sequence holds room for the longest one (a block as long as the context), nothing
shared, the cache in memory of its own; pool, blocks as they are needed, the rest alike; pool and unified, one arena for KV blocks,
activations and the prefixes that are kept, in extents whose runs of a head have 32 KiB (the plan's own choice), 128 KiB and 256 KiB;
unified alone, one arena and contiguous caches.
"""

import argparse
import json
import pathlib
import statistics
import sys
import tempfile
import typing

import workload
from peers.peer import SMOLLM2, Failed, execute
from provenance import REPOSITORY, current_commit, machine, own_command, write_result

BLOCK_SIZES = [16, 32, 64, 128, 256, 512]


class Configuration(typing.NamedTuple):
    name: str
    block_size: int
    extent: str = "32Ki"
    arena: str = "unified"
    options: tuple = ()


class Bench:
    def __init__(self, arguments, folder):
        self.arguments = arguments
        self.folder = folder
        self.plans = {}
        _, shown = self.plan(16)
        self.requests = workload.make_requests(arguments, shown["model"]["vocabulary"], arguments.context)
        self.bytes_per_token = shown["replicas"][0]["stages"][0]["ranks"][0]["memory"]["kv_block"] / 16

    def plan(self, block_size, extent="32Ki", arena="unified"):
        key = block_size, extent, arena
        if key not in self.plans:
            path = self.folder / f"{block_size}-{extent}-{arena}.plan.fb"
            inspect = self.arguments.build / "bin" / "llmir-inspect"
            execute([self.arguments.build / "bin" / "llmir-plan", self.arguments.model, "-o", path, "--weights", "keep", "--max-batch", 32,
                     "--context", self.arguments.context, "--block-size", block_size, "--kv-extent", extent, "--kv-arena", arena,
                     "--kv-blocks", self.arguments.tokens // block_size])  # fmt: skip
            self.plans[key] = path, json.loads(execute([inspect, "show", path, "--json"]))
        return self.plans[key]

    def measure(self, configurations):
        """The configurations' rows, each run of one beside a run of every other."""
        runs = {configuration: [] for configuration in configurations}
        for turn in range(self.arguments.runs):
            for configuration in configurations:
                path, _ = self.plan(configuration.block_size, configuration.extent, configuration.arena)
                settings = argparse.Namespace(build=self.arguments.build, plan=path, ranks=1, pinned_blocks=0,
                                              exec_options=["--threads", self.arguments.threads, *configuration.options])  # fmt: skip
                run = workload.measure_load(settings, self.folder, self.requests)[1]
                runs[configuration].append(run)
                print(f"run {turn + 1} of {self.arguments.runs}, {configuration.name}: {run['tokens_per_second']:.0f} tokens/s, "
                      f"waste {100 * run['engine']['kv_waste']:.1f} %", file=sys.stderr)  # fmt: skip
        return [self.row(configuration, runs[configuration], runs[configurations[0]]) for configuration in configurations]

    def row(self, configuration, runs, first):
        rates = [run["tokens_per_second"] for run in runs]
        improvements = [run["tokens_per_second"] / other["tokens_per_second"] - 1 for run, other in zip(runs, first)]
        engine = runs[-1]["engine"]
        return {"configuration": configuration.name, "block_size": configuration.block_size, "extent": configuration.extent,
                "arena": configuration.arena, "block_kb": configuration.block_size * self.bytes_per_token / 1024,
                "tokens_per_s": statistics.median(rates), "min": min(rates), "max": max(rates),
                "improvement": statistics.median(improvements), "least": min(improvements), "most": max(improvements),
                "efficiency": 1 - engine["kv_waste"], "reused_prompt_tokens": engine["reused_prompt_tokens"],
                "preempted": engine["preempted_to_recompute"] + engine["preempted_to_swap"]}  # fmt: skip


def draw(result, folder):
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    rows = result["block_sizes"]
    figure, left = pyplot.subplots(figsize=(6, 4), layout="constrained")
    left.plot([row["block_size"] for row in rows], [row["tokens_per_s"] for row in rows], marker="o", label="tokens/s")
    left.set(xscale="log", xticks=BLOCK_SIZES, xticklabels=BLOCK_SIZES, xlabel="tokens of a block", ylabel="tokens/s", ylim=(0, None))
    right = left.twinx()
    right.plot([row["block_size"] for row in rows], [100 * row["efficiency"] for row in rows], marker="s", color="C1", label="efficiency")
    right.set(ylabel="memory efficiency, %", ylim=(0, 105))
    left.minorticks_off()
    figure.legend(loc="outside upper center", ncols=2)
    figure.savefig(folder / "block_size.svg")
    figure, axes = pyplot.subplots(figsize=(6, 3), layout="constrained")
    rows = result["configurations"]
    axes.barh([row["configuration"] for row in rows], [row["tokens_per_s"] for row in rows])
    axes.set(xlabel="tokens/s")
    axes.invert_yaxis()
    figure.savefig(folder / "configurations.svg")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=pathlib.Path, default=SMOLLM2)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--tokens", type=int, default=8192, help="in KV memory, whatever the blocks (default: %(default)s)")
    parser.add_argument("--context", type=int, default=1024)
    workload.add_request_options(parser, requests=64, rate=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", "--output", type=pathlib.Path)
    parser.add_argument("--plots", type=pathlib.Path, metavar="FOLDER")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmir-kv-memory-") as name:
        bench = Bench(arguments, pathlib.Path(name))
        paged = [Configuration(f"blocks of {size}", size) for size in BLOCK_SIZES]
        tables = [Configuration("contiguous", arguments.context, arena="separate", options=("--forget-prefixes",)),
                  Configuration("pool", 32, arena="separate", options=("--forget-prefixes",)),
                  *(Configuration(f"pool and unified, runs of {extent}B", 32, extent) for extent in ("32Ki", "128Ki", "256Ki")),
                  Configuration("unified alone", arguments.context)]  # fmt: skip
        rows = bench.measure([*tables, *paged])
    table, sizes = rows[: len(tables)], rows[len(tables) :]
    result = {
        "machine": machine(),
        "commit": current_commit(),
        "command": own_command(),
        "model": arguments.model.name,
        "kv_tokens": arguments.tokens,
        "requests": len(bench.requests),
        "block_sizes": sizes,
        "configurations": table,
        "paper": {"Fig. 2": "best block size 256, 92 % memory efficiency",
                  "Table II": {"Pool + Unified(128KB)": 0.588, "Pool + Unified(256KB)": -0.131, "Pool only": -0.107, "Unified(128KB) only": 0.066}},
    }  # fmt: skip
    write_result(result, arguments.output)
    if arguments.plots:
        draw(result, arguments.plots)


if __name__ == "__main__":
    try:
        main()
    except (Failed, workload.Failed) as error:
        sys.exit(f"kv_memory: error: {error}")
