"""What perf/compare.py asks of a peer, and helpers that peers share."""

import dataclasses
import os
import pathlib
import subprocess
import sys
import time

CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "llmir"
# What launch/install.sh --model fetches.
SMOLLM2 = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclasses.dataclass(frozen=True)
class Task:
    """One thing to measure.

    metric: "prefill", "decode" and "long_decode" in tokens/s, "batch_decode" in tokens/s of all sequences together, "load" in
    seconds from main() to the first token of a prompt of `context` tokens (ours without MPI_Init), page cache warm; "memory" in
    bytes of the process's peak proportional set in the same. "pack_load" and "pack_memory": ours with weights packed at planning.
    context: prompt tokens (prefill), or tokens before the first decoded one (decode, long_decode).
    """

    metric: str
    threads: int
    batch: int
    context: int
    tokens: int  # decoded tokens per sequence


@dataclasses.dataclass(frozen=True)
class Sample:
    value: float
    command: str
    parts: dict | None = None  # seconds of a load, by part


class Unsupported(Exception):
    """The peer has no such weights or metric: a reason for people."""


class Failed(Exception):
    """An installation or a run went wrong: what, and what to do."""


class Peer:
    name = ""
    ranks = 1  # processes among which a task's threads are divided, its and ours

    def prepare(self):
        """Installs or builds what is missing into the cache. Raises Failed."""

    def version(self):
        raise NotImplementedError

    def settings(self, task):
        """The settings worth trying for a task, as opaque values for run()."""
        return [None]

    def model(self, source, weights):
        """Path of the peer's form of `source` (a GGUF file) with these weights, made once. Raises Unsupported."""
        raise NotImplementedError

    def run(self, model, task, setting):
        """One measurement, warmed up, in a fresh process. Raises Failed or Unsupported."""
        raise NotImplementedError


def execute(command, timeout=1800, environment=None):
    """Standard output of a command. Raises Failed with the end of its output."""
    command = [str(word) for word in command]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout,
        env={**os.environ, **(environment or {})}, errors="replace",
    )  # fmt: skip
    if done.returncode:
        # mpirun says in up to 12 lines of its own that a rank has failed, after the rank's line that says why.
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-24:])
        raise Failed(f"{' '.join(command)}\nended with {done.returncode}:\n{tail}")
    return done.stdout


def execute_measured(command, program, environment=None):
    """Peak bytes of the proportional set (PSS, sampled every 5 ms) of the processes of this program that the command starts."""
    process = subprocess.Popen(
        [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env={**os.environ, **(environment or {})},
    )  # fmt: skip
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(proportional_set(pid, program) for pid in descendants(process.pid)))
        time.sleep(0.005)
    if process.returncode:
        raise Failed(f"{' '.join(map(str, command))} ended with {process.returncode}")
    return peak


def descendants(pid):
    """`pid` and the processes that it started, and they."""
    found = [pid]
    for parent in found:
        for children in pathlib.Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                found.extend(map(int, children.read_text().split()))
            except OSError:  # it has ended
                pass
    return found


def proportional_set(pid, program):
    """Bytes; 0 for other programs and for a process that has ended."""
    try:
        if pathlib.Path(f"/proc/{pid}/comm").read_text().strip() != program[:15]:
            return 0
        for line in pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def virtual_environment(name, packages, overrides=()):
    """A virtual environment of its own under the cache; its python. Installed once for a list of packages.

    `overrides` stand for what packages require, whatever they say of the version.
    """
    folder = CACHE / "peers" / name
    python = folder / "bin" / "python"
    stamp = folder / "packages.txt"
    wanted = "\n".join([*packages, *overrides]) + "\n"
    if not (stamp.is_file() and stamp.read_text() == wanted):
        print(f"installing {name} into {folder}: {' '.join(packages)}", file=sys.stderr)
        folder.parent.mkdir(parents=True, exist_ok=True)
        execute(["/usr/bin/python3", "-m", "venv", "--clear", folder])
        pip = [folder / "bin" / "pip", "install", "-q", "--disable-pip-version-check"]
        if overrides:
            # pip itself has no overrides.
            execute([*pip, "uv"])
            file = folder / "overrides.txt"
            file.write_text("\n".join(overrides) + "\n")
            pip = [folder / "bin" / "uv", "pip", "install", "-q", "--python", python, "--override", file]
        execute([*pip, *packages], timeout=3600)
        stamp.write_text(wanted)
    return python
