"""llama.cpp over its RPC backend: two servers on this machine with one thread each, layers divided among them."""

import contextlib
import json
import subprocess

from peers.distributed_llama import free_port, wait_for_port
from peers.llamacpp import BUILD, TARGETS, LlamaCpp, shown
from peers.peer import Sample, Task, Unsupported, execute


class LlamaCppRpc(LlamaCpp):
    name = "llama.cpp-rpc"
    targets = [*TARGETS, "ggml-rpc-server"]
    ranks = 2

    def settings(self, task):
        return [None]

    def run(self, model, task: Task, setting):
        if task.metric not in ("prefill", "decode") or task.batch != 1:
            raise Unsupported(f"metric {task.metric}, batch {task.batch}")
        if task.threads != self.ranks:
            raise Unsupported(f"{task.threads} threads: the row is of {self.ranks} servers with one thread each")
        prompt, generated = (task.context, 0) if task.metric == "prefill" else (0, task.tokens)
        with contextlib.ExitStack() as servers:
            ports = []
            for core in range(self.ranks):
                port = free_port()
                server = ["taskset", "-c", core, BUILD / "bin" / "ggml-rpc-server", "-H", "127.0.0.1", "-p", port, "-t", 1]
                process = subprocess.Popen([str(word) for word in server], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                servers.callback(process.wait)
                servers.callback(process.kill)
                wait_for_port(port, process)
                ports.append(port)
            command = [BUILD / "bin" / "llama-bench", "-m", model, "--rpc", ",".join(f"127.0.0.1:{port}" for port in ports), "-ngl", 99,
                       "-sm", "layer", "-t", 1, "-p", prompt, "-n", generated, "-r", 1, "-o", "json"]  # fmt: skip
            (result,) = json.loads(execute(command))
        # Ports are other ones each time.
        return Sample(result["avg_ts"], shown([*command[:3], "--rpc", "A,B", *command[5:]]))
