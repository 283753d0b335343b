#!/usr/bin/env python3
"""KV blocks that one replica gets of another: how fast, and what that saves a request. Prints JSON.

    perf/transfers.py [--build build] [--rates none,10gbit,1gbit] [-o FILE]

rates: transfer_bench on two ranks of this host (their memory, then a socket) beside copies of the same pieces, and on two
hosts that are network namespaces (tests/cluster/hosts.sh, needs root) beside an MPI message of the same bytes.

first token: two replicas of SmolLM2 with one sequence each. One has computed a prefix and is decoding; a request with the same
prefix starts in the other, which gets the prefix's blocks, in turns with one whose tokens nobody has, which it computes. Time
from submission to the first token, for prefixes of several lengths.
"""

import argparse
import json
import pathlib
import random
import statistics
import sys
import tempfile
import time

import workload
from engine_client import CANCEL, SUBMIT, Client
from peers.llmir import ENVIRONMENT
from peers.peer import SMOLLM2, Failed, execute
from provenance import REPOSITORY, current_commit, machine, own_command, write_result

HOSTS = REPOSITORY / "tests" / "cluster" / "hosts.sh"
MPIRUN = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", 2]


def rates(arguments):
    bench = arguments.build / "bin" / "transfer_bench"
    rows = []
    for sockets in ([], ["--sockets"]):
        rows.append(json.loads(execute([*MPIRUN, bench, *sockets], environment=ENVIRONMENT)))
    for rate in arguments.rates.split(","):
        limit = [] if rate == "none" else ["--rate", rate]
        row = json.loads(execute([HOSTS, *limit, "1,1", "--", bench]))
        rows.append({"rate": rate, **row})
    return rows


class Engine(workload.Server):
    """Two replicas of one thread each behind a socket, and a client of theirs."""

    def __init__(self, build, plan, folder):
        self.report = folder / "report.json"
        settings = argparse.Namespace(build=build, plan=plan, ranks=2, exec_options=["--threads", 1])
        super().__init__(settings, folder, "--report", self.report)

    def __enter__(self):
        super().__enter__()
        self.client = Client(self.socket, timeout=300)
        self.client.until("hello")
        self.numbers = 0
        return self

    def submit(self, ids, tokens):
        self.numbers += 1
        self.client.send(SUBMIT, {"id": self.numbers, "request": {"prompt_ids": ids, "max_tokens": tokens, "ignore_eos": True}})
        return self.numbers

    def until(self, name, number):
        """Waits for a frame of this request."""
        while True:
            kind, value = self.client.receive()
            if kind == name and value["id"] == number:
                return
            if kind == "refused":
                raise Failed(f"request refused: {value}")

    def first_token(self, ids, prefix):
        """Seconds to the first token of `ids`, while the replica that has `prefix` decodes."""
        self.until("finish", self.submit(prefix, 1))
        busy = self.submit([*prefix, 5], 3000)
        self.until("token", busy)
        begin = time.perf_counter()
        asked = self.submit(ids, 1)
        self.until("token", asked)
        seconds = time.perf_counter() - begin
        self.client.send(CANCEL, {"id": busy})
        self.until("finish", busy)
        return seconds


def first_tokens(arguments, folder):
    random_ = random.Random(1)
    ids = lambda count: [random_.randrange(3, 49000) for _ in range(count)]  # noqa: E731
    plan = folder / "plan.fb"
    execute([arguments.build / "bin" / "llmir-plan", SMOLLM2, "-o", plan, "--dp", 2, "--max-batch", 1, "--context", 8000,
             "--prefill-chunk", 512, "--kv-blocks", 2000])  # fmt: skip
    rows = []
    with Engine(arguments.build, plan, folder) as engine:
        engine.first_token([*ids(100), 7], ids(100))  # warms up
        for length in arguments.lengths:
            got, computed = [], []
            for _ in range(arguments.runs):
                prefix = ids(length)
                got.append(engine.first_token([*prefix, 7], prefix))
                computed.append(engine.first_token([*ids(length), 7], ids(length)))
            ratios = [a / b for a, b in zip(got, computed)]
            rows.append({"tokens": length, "fetched_s": statistics.median(got), "computed_s": statistics.median(computed),
                         "ratio": statistics.median(ratios), "min": min(ratios), "max": max(ratios)})  # fmt: skip
            print(f"{length} tokens: fetched {1e3 * rows[-1]['fetched_s']:.1f} ms, computed {1e3 * rows[-1]['computed_s']:.1f} ms", file=sys.stderr)
    held = json.loads(engine.report.read_text())["engine"]
    wanted = len(arguments.lengths) * arguments.runs
    if held["fetches"] != wanted:
        raise Failed(f"{held['fetches']} prefixes were fetched, expected {wanted}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    parser.add_argument("--rates", default="none,10gbit,1gbit", help="of the link between hosts (default: %(default)s)")
    parser.add_argument("--lengths", type=int, nargs="+", default=[256, 512, 1024, 2048, 4096], help="tokens of a prefix")
    parser.add_argument("--runs", type=int, default=5, help="of each length (default: %(default)s)")
    parser.add_argument("-o", "--output", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmir-transfers-") as name:
        result = {
            "machine": machine(),
            "commit": current_commit(),
            "command": own_command(),
            "first_token": first_tokens(arguments, pathlib.Path(name)),
            "rates": rates(arguments),
        }
    write_result(result, arguments.output)


if __name__ == "__main__":
    try:
        main()
    except (Failed, workload.Failed) as error:
        sys.exit(f"transfers: error: {error}")
