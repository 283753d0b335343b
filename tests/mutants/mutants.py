#!/usr/bin/env python3
"""Plans that the planner makes are accepted; plans whose communication was changed are refused, or answer the same.

Each number draws a small model without weights, a layout of 1 to 64 ranks (stages, uneven tensor parallelism, a way to
overlap) and plans it: the planner and `llmir-inspect verify` must accept it. Then the plan's communication is changed in one
place by plan-mutant (a message dropped, swapped, resized, re-grouped, a wait removed or moved; the checksum is right). Either
`llmir-inspect verify` refuses the mutant in one line that names ranks and steps, or the mutant runs to its end with random
weights and gives, bit for bit, the logits and log-probabilities of the plan that it was made from.

    tests/mutants/mutants.py --mutants 500 --seed 1 --json mutants.json
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import platform
import random
import re
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tests" / "e2e"), str(ROOT / "perf")]
import llmir  # noqa: E402 (found through the line above)

MUTATOR = llmir.BUILD / "tests" / "plan-mutant"
NO_PLACE = 3  # plan-mutant's exit status where the plan has nothing of the kind
MOST_RANKS = 64
# Plans of more ranks aren't run: a mutant of them that passes is drawn again, and counted.
MOST_RUN = 6
RUN_S = 60  # a run of these models takes a second or two

KINDS = {
    "dropped": ["drop-step", "drop-exchange", "drop-on-rank", "drop-peer"],
    "swapped": ["swap-steps", "swap-operands", "swap-peers", "swap-routes"],
    "resized": ["resize-columns", "resize-rows"],
    "re-grouped": ["regroup-step", "regroup-ranks", "redirect"],
    "waits": ["wait-removed", "wait-moved", "wait-exchanged"],
}
OVERLAPS = ["none", "scatter", "halves", "auto"]


def draw_layout(draw, ranks):
    """(shape's fields, ranks of each stage): a model that `ranks` ranks can divide, uneven wherever it may be."""
    while True:
        layers, heads = draw.randint(1, 8), draw.randint(1, 16)
        stages = [s for s in range(1, layers + 1) if s <= ranks <= s * heads]
        if stages:
            break
    count = draw.choice(stages)
    tp = [1] * count
    for _ in range(ranks - count):
        tp[draw.choice([s for s in range(count) if tp[s] < heads])] += 1
    shape = {
        "name": "mutants",
        "layers": layers,
        "hidden": 32 * draw.randint(2, 6),
        "query_heads": heads,
        "kv_heads": draw.choice([k for k in range(1, heads + 1) if heads % k == 0]),
        "head_dim": 32,
        "mlp_columns": 64 * (heads + draw.randint(0, 3)) - draw.choice([0, 32]),
        "vocabulary": 64 * (heads + draw.randint(0, 3)) - draw.choice([0, 16]),
        "context": 256,
        "norm_epsilon": 1.0e-5,
        "rope_theta": 10000.0,
        "tied_head": draw.choice(["true", "false"]),
    }
    return shape, tp


class Case:
    """A plan made by the planner, and the runs that its mutants are held against."""

    def __init__(self, draw, ranks, folder):
        folder.mkdir(parents=True)
        self.folder, self.ranks = folder, ranks
        shape, self.tp = draw_layout(draw, ranks)
        self.overlap = draw.choice(OVERLAPS)
        self.weights = draw.choice(["f32", "q8", "keep"])
        self.vocabulary = shape["vocabulary"]
        model = folder / "model.yaml"
        model.write_text("".join(f"{key}: {value}\n" for key, value in shape.items()))
        self.plan = folder / "plan.fb"
        self.options = ["--tp", ",".join(map(str, self.tp)), "--pp", len(self.tp), "--overlap", self.overlap, "--weights", self.weights]
        self.options += ["--context", 128, "--max-batch", 2, "--prefill-chunk", 24]
        if draw.random() < 0.2:
            self.options += ["--disable", "parallel"]
        self.refusal = ""
        try:
            llmir.plan(model, self.plan, *self.options)
            llmir.run([llmir.program("llmir-inspect"), "verify", self.plan]).check()
        except AssertionError as error:
            self.refusal = str(error)
        self.expected = None

    def __str__(self):
        return " ".join(map(str, self.options))

    def answers(self, plan, folder):
        """Logits of two prompts, and log-probabilities of texts, so that programs of all kinds are run."""
        job = llmir.Job(plan, self.ranks, folder)
        ids = [int(i) for i in (np.arange(40) * 37 + 11) % self.vocabulary]
        prompts = [{"prompt_ids": ids[:length], "force_ids": ids[:3]} for length in (1, 3, 37)]
        common = ["--random-weights", "--threads", 1, "--quiet"]
        _, logits = job.generate_with_logits(prompts, "--max-tokens", 3, "--ignore-eos", *common, timeout=RUN_S)
        return [*logits, *job.score([ids[:2], ids[:29]], *common, timeout=RUN_S)]

    def runs_like_the_original(self, mutant, folder):
        """What is wrong; empty: nothing."""
        if self.expected is None:
            self.expected = self.answers(self.plan, self.folder / "original")
        try:
            got = self.answers(mutant, folder)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return f"accepted, but it doesn't run to its end: {str(error)[-1500:]}"
        if all(np.array_equal(g, e) for g, e in zip(got, self.expected, strict=True)):
            return ""
        return "accepted, but its answers are others than the original's"


def named(text):
    """(world ranks, steps) that a refusal names."""
    ranks = {n for found in re.findall(r"\branks? (\d+(?:, \d+)*)", text) for n in found.split(", ")}
    return ranks, set(re.findall(r"(?:stages\[\d+\]\.(?:programs\[\d+\]\.)?)?\bsteps\[\d+\]", text))


def run_number(number, seed):
    """One good plan and one mutant."""
    begin = time.monotonic()
    draw = random.Random(f"{seed}-{number}")
    result = {"number": number, "failures": [], "redrawn": 0}
    with tempfile.TemporaryDirectory(prefix="llmir-mutants-") as name:
        folder = pathlib.Path(name)
        ranks = 1 + number % MOST_RANKS  # each number of ranks equally often
        good = Case(draw, ranks, folder / "good")
        result["plan"] = {"ranks": ranks, "options": str(good)}
        if good.refusal:
            result["failures"].append(f"a plan by the planner is refused: {good}: {good.refusal}")
        # The families of changes in turn, whatever the layout.
        family = list(KINDS)[number % len(KINDS)]
        case, attempt, most, kind = good, 0, MOST_RANKS, ""
        while True:
            attempt += 1
            # A layout on which the change has a place; after some tries another kind of its family.
            if case.refusal or case.ranks == 1 or case.ranks > most or attempt % 4 == 0:
                case = Case(draw, draw.randint(2, most), folder / f"other-{attempt}")
                if case.refusal:
                    result["failures"].append(f"a plan by the planner is refused: {case}: {case.refusal}")
                    continue
            if not kind or attempt % 4 == 0 and not result["redrawn"]:
                kind = draw.choice(KINDS[family])
            mutant = folder / f"mutant-{attempt}.fb"
            made = llmir.run([MUTATOR, case.plan, mutant, "--kind", kind, "--seed", draw.randrange(1 << 32)])
            if made.status == NO_PLACE:
                continue
            what = json.loads(made.check().stdout)
            verified = llmir.run([llmir.program("llmir-inspect"), "verify", mutant])
            if verified.status == 0 and case.ranks > MOST_RUN:
                # Too many ranks to be run here: the same kind of change, on fewer.
                result["redrawn"] += 1
                most = MOST_RUN
                continue
            break
        result.update(kind=kind, family=family, ranks=case.ranks, options=str(case), **what)
        at = f"{kind} ({json.dumps(what)}) of {case}"
        if verified.status == 0:
            result["outcome"] = "harmless"
            problem = case.runs_like_the_original(mutant, folder / "run")
            if problem:
                result["failures"].append(f"{at}: {problem}")
        else:
            result["outcome"] = "refused"
            lines = verified.error_lines()
            result["message"] = lines[0].partition(".fb: ")[2] if lines else verified.stderr[-500:]
            in_ranks, in_steps = named(result["message"])
            result["named"] = {"ranks": len(in_ranks), "steps": len(in_steps)}
            if verified.status != 1 or len(lines) != 1 or not in_ranks or not in_steps:
                result["failures"].append(f"{at}: refused without ranks and steps: {verified.stderr[-1000:]}")
    result["seconds"] = round(time.monotonic() - begin, 2)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=500, metavar="N", help="mutants, and good plans (default 500)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is drawn (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="mutants at a time (default: one per core)")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write every mutant's result here")
    arguments = parser.parse_args()
    results, failed = [], 0
    begin = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(arguments.jobs) as pool:
        for result in pool.map(run_number, range(arguments.mutants), [arguments.seed] * arguments.mutants):
            results.append(result)
            failed += bool(result["failures"])
            for failure in result["failures"]:
                print(f"\nmutant {result['number']}: {failure}", file=sys.stderr)
            print(f"\r{len(results)}/{arguments.mutants} mutants, {failed} with failures", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    refused = [r for r in results if r["outcome"] == "refused"]
    summary = {
        "command": " ".join(sys.argv),
        "commit": subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True).stdout.strip(),
        "machine": platform.processor() or platform.machine(),
        "seed": arguments.seed,
        "plans": len(results),
        "plans_refused": sum("refused: " in f and "a plan by the planner" in f for r in results for f in r["failures"]),
        "mutants": len(results),
        "refused": len(refused),
        "refused_naming_two_ranks": sum(r["named"]["ranks"] > 1 for r in refused),
        "harmless": len(results) - len(refused),
        "harmless_of_more_ranks_than_are_run_drawn_again": sum(r["redrawn"] for r in results),
        "kinds": dict(sorted(collections.Counter(f"{r['kind']}: {r['outcome']}" for r in results).items())),
        "failed": failed,
        "seconds": round(time.monotonic() - begin, 1),
        "results": results,
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(summary, indent=1) + "\n")
    print(f"mutants: {summary['plans']} plans of 1 to {MOST_RANKS} ranks, {summary['plans_refused']} refused; "
          f"{summary['mutants']} mutants, {summary['refused']} refused with ranks and steps "
          f"({summary['refused_naming_two_ranks']} with two ranks or more), {summary['harmless']} harmless, "
          f"{failed} with failures, {summary['seconds']} s")  # fmt: skip
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
