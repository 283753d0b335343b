#!/usr/bin/env python3
"""All-reduces within a host: our shared memory beside MPI_Allreduce, in the same processes in turns. Prints JSON.

    perf/communication.py [--build build] [--ranks 2] [--bytes 4096 65536 1048576] [--runs 5] [-o FILE]

A row has the medians of both over all runs and the ratio of MPI_Allreduce's time to ours, median, least and greatest of the runs.
"""

import argparse
import json
import pathlib
import statistics
import sys

from peers.llmir import ENVIRONMENT
from peers.peer import Failed, execute
from provenance import REPOSITORY, current_commit, machine, own_command, write_result


def run(arguments):
    """{(bytes, implementation): median microseconds} of one run."""
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", arguments.ranks, arguments.build / "bin" / "comm_bench",
               "--bytes", *arguments.bytes, "--operations", 300, "--turns", arguments.turns]  # fmt: skip
    results = json.loads(execute(command, environment=ENVIRONMENT))["results"]
    return {(row["bytes"], row["implementation"]): row["median_us"] for row in results}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--bytes", type=int, nargs="+", default=[4096, 65536, 1048576])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--turns", type=int, default=8, help="of each implementation in a run (default: %(default)s)")
    parser.add_argument("-o", "--output", type=pathlib.Path)
    arguments = parser.parse_args()
    runs = [run(arguments) for _ in range(arguments.runs)]
    rows = []
    for size in arguments.bytes:
        ours, theirs = ([times[size, name] for times in runs] for name in ("shared-memory", "MPI_Allreduce"))
        ratios = [b / a for a, b in zip(ours, theirs)]
        rows.append({"bytes": size, "ours_us": statistics.median(ours), "mpi_us": statistics.median(theirs),
                     "ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)})  # fmt: skip
    result = {
        "machine": machine(),
        "commit": current_commit(),
        "command": own_command(),
        "ranks": arguments.ranks,
        "runs": arguments.runs,
        "rows": rows,
    }
    write_result(result, arguments.output)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"communication: error: {error}")
