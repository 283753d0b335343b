"""Where a figure comes from: what a results file says beside it."""

import os
import pathlib
import subprocess

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
