"""Runs the binaries as a user does, and reads what they write."""

import json
import os
import pathlib
import re
import subprocess
import time

import numpy as np

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("LLMIR_TEST_BUILD", REPOSITORY / "build"))
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "llmir"
SMOLLM2 = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
GOLDEN = REPOSITORY / "tests" / "golden" / "smollm2-135m"
# Long enough for the sanitizers' slowness, short enough that a hang is noticed.
TIMEOUT_S = 600
# What "within seconds" means for a refusal, process start included.
REFUSAL_S = 20


def program(name):
    return str(BUILD / "bin" / name)


class Result:
    """What a finished command left."""

    def __init__(self, command, status, stdout, stderr, seconds):
        self.command = command
        self.status = status
        self.stdout = stdout
        self.stderr = stderr
        self.seconds = seconds

    def check(self):
        assert self.status == 0, f"{' '.join(self.command)}\nexited with {self.status}\n{self.stdout[-2000:]}\n{self.stderr[-4000:]}"
        return self

    def error_lines(self):
        """Lines that report an error: they start with the program's name; mpirun's own summary doesn't."""
        return [line for line in self.stderr.splitlines() if re.match(r"llmir-(plan|exec|inspect): (?!note: )", line)]


def run(command, timeout=TIMEOUT_S, environment=None):
    begin = time.monotonic()
    command = [str(word) for word in command]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout,
        env={**os.environ, **(environment or {})},
        errors="replace",
    )
    return Result(command, done.returncode, done.stdout, done.stderr, time.monotonic() - begin)


def mpi(ranks, command, **arguments):
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **arguments.pop("environment", {})}
    return run(["mpirun", "--oversubscribe", "--bind-to", "none", "-n", ranks, *command], environment=environment, **arguments)


def plan(model, output, *options, **arguments):
    """llmir-plan; the plan's path."""
    run([program("llmir-plan"), model, "-o", output, *options], **arguments).check()
    return output


def ranks_of(plan_path):
    """The number of ranks that a plan is made for."""
    shown = json.loads(run([program("llmir-inspect"), "show", plan_path, "--json"]).check().stdout)
    return sum(len(stage["ranks"]) for replica in shown["replicas"] for stage in replica["stages"])


def write_jsonl(path, lines):
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


class Job:
    """A plan and the folder in which its runs leave their files."""

    def __init__(self, plan_path, ranks, folder):
        self.plan = plan_path
        self.ranks = ranks
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count = 0

    def run(self, *options, **arguments):
        return mpi(self.ranks, [program("llmir-exec"), self.plan, *options], **arguments)

    def new_folder(self):
        self.count += 1
        folder = self.folder / f"run-{self.count}"
        folder.mkdir()
        return folder

    def generate(self, prompts, *options, **arguments):
        """The output lines for `prompts` (dicts)."""
        folder = self.new_folder()
        write_jsonl(folder / "prompts.jsonl", prompts)
        self.run("--prompts", folder / "prompts.jsonl", "--output", folder / "output.jsonl", *options, **arguments).check()
        return read_jsonl(folder / "output.jsonl")

    def generate_with_logits(self, prompts, *options, **arguments):
        """Output lines, and one array [generated positions, vocabulary] per prompt."""
        logits = self.new_folder() / "logits"
        lines = self.generate(prompts, "--logits", logits, *options, **arguments)
        files = sorted(logits.glob("*.npy"), key=lambda path: int(path.stem))
        assert len(files) == len(prompts)
        return lines, [np.load(path) for path in files]

    def score(self, sequences, *options, **arguments):
        """Log-probabilities of the ids of each sequence, one per id after the first."""
        folder = self.new_folder()
        write_jsonl(folder / "score.jsonl", [{"prompt_ids": list(map(int, ids))} for ids in sequences])
        self.run("--score", folder / "score.jsonl", "--output", folder / "output.jsonl", *options, **arguments).check()
        lines = read_jsonl(folder / "output.jsonl")
        assert len(lines) == len(sequences)
        return [np.array(line["logprobs"]) for line in lines]
