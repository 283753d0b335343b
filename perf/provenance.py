"""Where a figure comes from: what a results file says beside it."""

import json
import os
import pathlib
import subprocess
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def current_commit():
    """Of the working tree; "+changes" where it differs from the commit, "unknown" outside a repository."""
    done = subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True, text=True)
    changed = subprocess.run(["git", "-C", REPOSITORY, "status", "--porcelain"], capture_output=True, text=True)
    if done.returncode:
        return "unknown"
    return done.stdout.strip() + ("+changes" if changed.stdout.strip() else "")


def machine():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return {"processor": line.partition(":")[2].strip(), "cores": os.cpu_count()}
    return {"processor": "unknown", "cores": os.cpu_count()}


def own_command():
    """The script that runs and its words, without a machine's folders."""
    script, *words = sys.argv
    return " ".join([f"perf/{pathlib.Path(script).name}", *(pathlib.Path(word).name if "/" in word else word for word in words)])


def write_result(result, output):
    """Prints a result as JSON, and writes it to `output` where that isn't None."""
    text = json.dumps(result, indent=1)
    print(text)
    if output:
        output.write_text(text + "\n")
