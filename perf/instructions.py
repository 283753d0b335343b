#!/usr/bin/env python3
"""Instructions of the AVX2 kernels, counted by callgrind, against the counts that the repository keeps.

    perf/instructions.py [--build build]            print counts and changes; exit 1 if one grew by more than 5 %
    perf/instructions.py --keep                     write the counts as those to keep

The same binary gives the same counts on any machine. A kernel that does more on purpose is kept with --keep, and the commit
says why.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
KEPT = REPOSITORY / "perf" / "results" / "instructions-avx2.json"
MOST = 1.05
ATTENTION = ("f32", "bf16", "i8", "f8_e4m3")


def totals(folder):
    """Instructions per dump that the program asked for, by the name that it gave."""
    counts = {}
    for path in sorted(pathlib.Path(folder).glob("out*")):
        name, total = None, None
        for line in path.read_text().splitlines():
            if line.startswith("desc: Trigger: Client Request: "):
                name = line.removeprefix("desc: Trigger: Client Request: ")
            elif line.startswith(("totals:", "summary:")):
                total = int(line.split()[1])
        if name is not None:
            counts[name] = total
    return counts


def callgrind(command, folder):
    done = subprocess.run(["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", *map(str, command)], capture_output=True,
                          text=True, env={**os.environ, "LLMIR_CPU_ISA": "avx2"})  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(map(str, command))}: exited with {done.returncode}\n{done.stderr[-2000:]}")


def whole(command):
    """Instructions of a whole run."""
    with tempfile.TemporaryDirectory() as folder:
        callgrind(command, folder)
        lines = (pathlib.Path(folder) / "out").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(("totals:", "summary:"))).split()[1])


def count(build):
    binary = pathlib.Path(build) / "bin"
    with tempfile.TemporaryDirectory() as folder:
        callgrind([binary / "llmir-instructions", "--isa", "avx2"], folder)
        counts = totals(folder)
    for kv in ATTENTION:
        for mode in ("unfused", "fused"):
            runs = [whole([binary / "llmir-fusion", "--run", mode, "--kv", kv, "--batch", 4, "--steps", steps]) for steps in (1, 5)]
            counts[f"attention/{mode}/{kv}"] = (runs[1] - runs[0]) // 4
    return counts


def grown(counts, kept):
    """Lines about kernels that take more instructions than is allowed, or are counted for the first time."""
    lines = [f"{name}: {value} instructions, kept {kept[name]}, allowed {MOST * kept[name]:.0f}"
             for name, value in counts.items() if name in kept and value > MOST * kept[name]]  # fmt: skip
    lines += [f"{name}: {value} instructions, none kept; perf/instructions.py --keep" for name, value in counts.items() if name not in kept]
    return lines + [f"{name}: kept, but not counted any more; perf/instructions.py --keep" for name in kept if name not in counts]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build", help="(default: build)")
    parser.add_argument("--keep", action="store_true", help="write the counts to perf/results/instructions-avx2.json")
    arguments = parser.parse_args()
    counts = count(arguments.build)
    if arguments.keep:
        KEPT.write_text(json.dumps(counts, indent=1) + "\n")
        return 0
    kept = json.loads(KEPT.read_text())
    for name, value in counts.items():
        print(f"{name:34} {value:12}  {100 * (value / kept[name] - 1):+.1f} %" if name in kept else f"{name:34} {value:12}")
    problems = grown(counts, kept)
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
