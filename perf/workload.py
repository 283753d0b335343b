#!/usr/bin/env python3
"""A seeded workload against llmir-exec --socket: are answers right under load, and what does waiting for them feel like?

Requests: lognormal prompt and answer lengths, Poisson arrivals, half of them beginning with one of 8 system prompts, ids drawn
at random. What follows -- are options of llmir-exec. --check-alone asks for each answer again, alone and with nothing cached. As long as plans aren't reproducible, an
answer is right when it is the same up to the first step whose two best logits are closer than 1e-3; the share of such is
reported. The plan decides how much room there is: --kv-blocks of llmir-plan forces eviction and preemption.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "perf"))

from engine_client import Client  # noqa: E402 (found through the line above)
from provenance import current_commit, machine, own_command  # noqa: E402 (found through the line above)

CLOSE = 1e-3  # two logits this near may change places with the order of sums
SYSTEM_PROMPTS = 8


class Failed(Exception):
    pass


def lognormal(random_, mean, sigma, most):
    """A length with this mean (before it is cut at `most`)."""
    return max(1, min(most, round(random_.lognormvariate(0, sigma) * mean / 2.718281828 ** (sigma * sigma / 2))))


def add_request_options(parser, requests, rate):
    """What make_requests takes, with these defaults."""
    parser.add_argument("--requests", type=int, default=requests)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=rate, help="arrivals per second; 0: all at once (default: %(default)s)")
    parser.add_argument("--prompt-mean", type=float, default=300)
    parser.add_argument("--answer-mean", type=float, default=300)
    parser.add_argument("--system", type=int, default=200, help="tokens of a system prompt")


def make_requests(arguments, vocabulary, context):
    random_ = random.Random(arguments.seed)
    ids = lambda count: [random_.randrange(3, vocabulary) for _ in range(count)]  # noqa: E731
    systems = [ids(min(arguments.system, context // 4)) for _ in range(SYSTEM_PROMPTS)]
    at = 0.0
    requests = []
    for number in range(arguments.requests):
        at += random_.expovariate(arguments.rate) if arguments.rate > 0 else 0
        answer = lognormal(random_, arguments.answer_mean, 0.6, context // 2)
        prompt = ids(lognormal(random_, arguments.prompt_mean, 0.6, context - answer))
        if random_.random() < 0.5:
            prompt = (random_.choice(systems) + prompt)[: context - answer]
        requests.append(
            {"at": at, "request": {"prompt_ids": prompt, "max_tokens": answer, "ignore_eos": True, "details": True, "tenant": ""}}
        )
    return requests


class Server:
    """llmir-exec --socket, for as long as the `with` lasts; a signal must end it well, and its socket be gone."""

    def __init__(self, arguments, folder, *options):
        self.socket = folder / "engine.sock"
        self.command = [arguments.build / "bin" / "llmir-exec", arguments.plan, "--socket", self.socket, "--quiet", *options]
        self.command += arguments.exec_options
        if arguments.ranks > 1:
            self.command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", arguments.ranks, *self.command]
        self.load = arguments.build / "bin" / "llmir-load"
        self.folder = folder

    def __enter__(self):
        environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        self.process = subprocess.Popen([str(word) for word in self.command], env=environment)
        while not self.socket.exists():
            if self.process.poll() is not None:
                raise Failed(f"llmir-exec ended with {self.process.returncode} before it served")
            time.sleep(0.02)
        # Of mpirun's job the first rank: mpirun itself would kill it.
        self.pid = Client(self.socket).receive()[1]["pid"]
        return self

    def __exit__(self, *error):
        os.kill(self.pid, signal.SIGINT)
        try:
            status = self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise Failed("llmir-exec didn't end within 60 s of a signal") from None
        if error[0] is None and (status != 0 or self.socket.exists()):
            raise Failed(f"llmir-exec ended with {status} after a signal, socket {'left' if self.socket.exists() else 'removed'}")

    def run(self, requests, *options):
        """What llmir-load wrote for `requests`, and its summary."""
        file, output = self.folder / "requests.jsonl", self.folder / "output.jsonl"
        file.write_text("".join(json.dumps(request) + "\n" for request in requests))
        command = [self.load, "--socket", self.socket, "--requests", file, "--output", output, *options]
        done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failed(done.stderr.strip())
        return [json.loads(line) for line in output.read_text().splitlines()], json.loads(done.stdout)


def quantile(values, q):
    values = sorted(values)
    return values[min(len(values) - 1, round(q * (len(values) - 1)))] if values else None


def gaps(line):
    return [b - a for a, b in zip(line["token_ms"], line["token_ms"][1:])]


def compare(together, alone):
    """(same, close, wrong) numbers of requests."""
    same, close, wrong = [], [], []
    for number, (one, other) in enumerate(zip(together, alone, strict=True)):
        if one["ids"] == other["ids"]:
            same.append(number)
            continue
        pairs = list(zip(one["ids"], other["ids"]))
        first = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        excused = first is not None and min(other["margins"][: first + 1]) < CLOSE
        (close if excused else wrong).append(number)
    return same, close, wrong


def measure_load(arguments, folder, requests):
    with Server(arguments, folder) as server:
        lines, summary = server.run(requests)
    errors = [line["error"] for line in lines if line["error"]]
    engine = summary["engine"]
    tokens = sum(len(line["ids"]) for line in lines)
    all_gaps = [gap for line in lines for gap in gaps(line)]
    result = {
        "requests": len(lines),
        "refused": len(errors),
        "seconds": summary["seconds"],
        "tokens_per_second": tokens / summary["seconds"],
        "mean_prompt_tokens": statistics.mean(len(r["request"]["prompt_ids"]) for r in requests),
        "mean_answer_tokens": statistics.mean(r["request"]["max_tokens"] for r in requests),
        "ttft_ms": {"median": quantile([line["token_ms"][0] for line in lines if line["token_ms"]], 0.5)},
        "inter_token_ms": {"median": quantile(all_gaps, 0.5), "p95": quantile(all_gaps, 0.95)},
        "kv_waste": engine["kv_waste"],
        "leaked_blocks": engine["held_kv_blocks"] - arguments.pinned_blocks,
        "engine": engine,
    }
    return lines, result


def measure_prefix(arguments, folder, vocabulary, context):
    """Time to first token of prompts of 1,000 tokens, 90 % of them shared against none."""
    length = min(1000, context - 1)
    random_ = random.Random(arguments.seed)
    ids = lambda count: [random_.randrange(3, vocabulary) for _ in range(count)]  # noqa: E731
    shared = ids(length * 9 // 10)
    request = lambda prompt: {"request": {"prompt_ids": prompt, "max_tokens": 1, "ignore_eos": True}}  # noqa: E731
    times = {}
    with Server(arguments, folder) as server:
        server.run([request(shared + ids(1))], "--serial")
        for name, start in (("none_shared", []), ("shared_90", shared)):
            lines, _ = server.run([request(start + ids(length - len(start))) for _ in range(5)], "--serial")
            times[name] = statistics.median(line["token_ms"][0] for line in lines)
    return {"prompt_tokens": length, "ttft_ms": times, "ratio": times["shared_90"] / times["none_shared"]}


def measure_interference(arguments, folder, vocabulary, context):
    """Inter-token latency of requests that decode, idle and while prompts of 2,000 tokens come one after the other."""
    length = min(2000, context - 2)
    random_ = random.Random(arguments.seed)
    ids = lambda count: [random_.randrange(3, vocabulary) for _ in range(count)]  # noqa: E731
    short = lambda: {"at": 0, "request": {"prompt_ids": ids(16), "max_tokens": 160, "ignore_eos": True}}  # noqa: E731
    long = lambda at: {"at": at, "request": {"prompt_ids": ids(length), "max_tokens": 1, "ignore_eos": True}}  # noqa: E731
    with Server(arguments, folder) as server:
        alone, _ = server.run([long(0) for _ in range(2)], "--serial")
        idle, _ = server.run([short() for _ in range(2)])
        busy, _ = server.run([short(), short(), long(0.3)])
    p95 = lambda lines: statistics.median(quantile(gaps(line), 0.95) for line in lines)  # noqa: E731
    result = {
        "prompt_tokens": length,
        "inter_token_p95_ms": {"idle": p95(idle), "while_prefilling": p95(busy[:2])},
        "ttft_ms": {"alone": statistics.median(line["token_ms"][0] for line in alone), "beside_decodes": busy[2]["token_ms"][0]},
    }
    result["inter_token_ratio"] = result["inter_token_p95_ms"]["while_prefilling"] / result["inter_token_p95_ms"]["idle"]
    result["ttft_ratio"] = result["ttft_ms"]["beside_decodes"] / result["ttft_ms"]["alone"]
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plan", type=pathlib.Path)
    add_request_options(parser, requests=1000, rate=2.0)
    parser.add_argument("--check-alone", action="store_true", help="each answer is the one that its request gets alone")
    parser.add_argument("--prefix", action="store_true", help="measure time to first token with a shared prefix instead")
    parser.add_argument("--interference", action="store_true", help="measure decoding beside long prompts instead")
    parser.add_argument("--json", type=pathlib.Path, help="write the result here")
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    arguments = parser.parse_args(words[:end])
    arguments.exec_options = words[end + 1 :]
    shown = subprocess.run(
        [arguments.build / "bin" / "llmir-inspect", "show", arguments.plan, "--json"], capture_output=True, text=True, check=True
    )
    plan = json.loads(shown.stdout)
    vocabulary, context = plan["model"]["vocabulary"], plan["limits"]["context"]
    arguments.ranks = sum(len(stage["ranks"]) for replica in plan["replicas"] for stage in replica["stages"])
    arguments.pinned_blocks = sum(len(p["ids"]) for p in plan.get("prefixes") or []) // plan["kv"]["block_size"]
    result = {"machine": machine(), "commit": current_commit(), "command": own_command(), "seed": arguments.seed}
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if arguments.prefix:
            result["prefix"] = measure_prefix(arguments, folder, vocabulary, context)
        if arguments.interference:
            result["interference"] = measure_interference(arguments, folder, vocabulary, context)
        wrong = []
        if not arguments.prefix and not arguments.interference:
            requests = make_requests(arguments, vocabulary, context)
            lines, result["load"] = measure_load(arguments, folder, requests)
            if arguments.check_alone:
                with Server(arguments, folder, "--forget-prefixes") as server:
                    alone, _ = server.run(requests, "--serial")
                same, close, wrong = compare(lines, alone)
                result["alone"] = {"same": len(same), "close": len(close), "share_close": len(close) / len(lines), "wrong": wrong}
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))
    if wrong:
        raise Failed(f"{len(wrong)} answers differ from those that the requests get alone: {wrong[:10]}")
    if "load" in result and result["load"]["leaked_blocks"] != 0:
        raise Failed(f"{result['load']['leaked_blocks']} KV blocks are held by nobody")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"workload: error: {error}")
