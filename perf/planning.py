#!/usr/bin/env python3
"""Plans shapes for numbers of ranks: the layout that each gets, or the one-line reason why there is none.

Every plan is read back by llmir-inspect verify. Times are llmir-plan's, from start to end and of its processors; planning has
one thread, so that the second is the first on an idle machine, and is what the limit holds for. Memory is its peak resident
set. Exits with 1 where a plan took longer, more memory or more bytes than the limits, or where a failure has more than one line.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

from provenance import REPOSITORY, current_commit, machine

SHAPES = ["llama-2-7b", "llama-2-13b", "llama-2-70b"]


def counts_of(text):
    """"1-8,64" as a list of numbers."""
    counts = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        counts.extend(range(int(first), int(last or first) + 1))
    return counts


def run(command):
    """(exit status, standard error, seconds, processor seconds, peak bytes) of one process."""
    with tempfile.TemporaryFile("w+") as err:
        begin = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=err)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        return process.returncode, err.read(), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024


def layout_of(bin_folder, plan):
    """Ranks per stage, as llmir-inspect shows them: "2+1"."""
    shown = subprocess.run([bin_folder / "llmir-inspect", "show", plan, "--program", "decode"], capture_output=True, text=True)
    for line in shown.stdout.splitlines():
        if line.startswith("Layout:"):
            return line.partition("[")[2].rstrip("]")
    raise SystemExit(f"planning: {plan}: llmir-inspect shows no layout: {shown.stderr.strip()}")


def plan_one(bin_folder, shape, ranks, options, folder):
    plan = folder / "plan.fb"
    plan.unlink(missing_ok=True)
    model = REPOSITORY / "configs" / "models" / f"{shape}.yaml"
    status, err, seconds, busy, peak = run([bin_folder / "llmir-plan", model, "-o", plan, "--ranks", str(ranks), *options])
    row = {"shape": shape, "ranks": ranks, "seconds": round(seconds, 3), "cpu_seconds": round(busy, 3), "peak_bytes": peak}
    if status != 0:
        return {**row, "reason": err.strip()}
    verified = subprocess.run([bin_folder / "llmir-inspect", "verify", plan], capture_output=True, text=True)
    if verified.returncode != 0:
        return {**row, "reason": "the plan isn't valid:\n" + verified.stderr.strip()}
    return {**row, "layout": layout_of(bin_folder, plan), "plan_bytes": plan.stat().st_size}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build", help="build folder (default: build)")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="names in configs/models")
    parser.add_argument("--ranks", default="1-64", help="numbers of ranks, such as 1-8,64 (default: 1-64)")
    parser.add_argument("--json", type=pathlib.Path, help="write the rows to this file")
    parser.add_argument("--seconds", type=float, default=10, help="limit for one plan (default: 10)")
    parser.add_argument("--memory", type=float, default=2**30, help="limit of peak memory, bytes (default: 1 GiB)")
    parser.add_argument("--plan-bytes", type=float, default=8 * 2**20, help="limit of a plan's size (default: 8 MiB)")
    parser.add_argument("options", nargs="*", help="more options for llmir-plan, after --")
    arguments = parser.parse_args()

    rows = []
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for shape in arguments.shapes.split(","):
            for ranks in counts_of(arguments.ranks):
                row = plan_one(arguments.build / "bin", shape, ranks, arguments.options, pathlib.Path(folder))
                rows.append(row)
                what = row.get("layout") or row["reason"]
                size = f"{row['plan_bytes'] / 2**20:6.2f} MiB" if "layout" in row else " " * 10
                print(f"{shape:12} {ranks:3} ranks  {row['seconds']:6.2f} s, {row['cpu_seconds']:5.2f} busy  {row['peak_bytes'] / 2**20:5.0f} MiB  {size}  {what}")
                over = [
                    name
                    for name, value, limit in [
                        ("seconds", row["cpu_seconds"], arguments.seconds),
                        ("memory", row["peak_bytes"], arguments.memory),
                        ("plan's bytes", row.get("plan_bytes", 0), arguments.plan_bytes),
                    ]
                    if value > limit
                ]
                if "\n" in what:
                    over.append("more than one line")
                if over:
                    print(f"planning: error: {shape} on {ranks} ranks: over the limit: {', '.join(over)}", file=sys.stderr)
                    failed = True
    if arguments.json:
        command = "perf/planning.py " + " ".join(a for a in sys.argv[1:] if "/" not in a)
        arguments.json.write_text(json.dumps({"command": command, "commit": current_commit(), "machine": machine(), "rows": rows}, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
