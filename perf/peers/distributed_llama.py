"""distributed-llama, built from a source folder (--dllama DIR): a root and a worker on this machine, one thread each."""

import os
import pathlib
import re
import shutil
import socket
import struct
import subprocess
import time

import numpy as np

from peers.llamacpp import gguf_with_weights, model_name, shown
from peers.peer import CACHE, Failed, Peer, Sample, Task, Unsupported, execute

BUILD = CACHE / "peers" / "distributed-llama"
Q40, F32, LLAMA, SILU = 2, 0, 0xABCD00, 1
CONTEXT = 1024


class DistributedLlama(Peer):
    name = "distributed-llama"
    ranks = 2

    def __init__(self, source):
        self.source = pathlib.Path(source)

    def prepare(self):
        if not (self.source / "src" / "dllama.cpp").is_file():
            raise Failed(f"--dllama {self.source}: no source of distributed-llama, src/dllama.cpp is missing")
        newest = max(path.stat().st_mtime for path in self.source.glob("src/**/*") if path.is_file())
        program = BUILD / "dllama"
        if program.is_file() and program.stat().st_mtime >= newest:
            return
        # Its Makefile builds in place: in a copy.
        shutil.rmtree(BUILD, ignore_errors=True)
        shutil.copytree(self.source, BUILD, ignore=shutil.ignore_patterns(".git", "*.o", "dllama"))
        execute(["make", "-C", BUILD, "dllama"], timeout=3600)

    def version(self):
        done = subprocess.run(["git", "-C", self.source, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
        return done.stdout.strip() or "unknown"

    def model(self, source, weights):
        if weights != "q4_0":
            raise Unsupported(f"weights {weights}: of the types that LLMIR reads, it has q4_0 alone")
        return written_model(gguf_with_weights(source, weights))

    def run(self, model, task: Task, setting):
        if task.metric not in ("prefill", "decode") or task.batch != 1:
            raise Unsupported(f"metric {task.metric}, batch {task.batch}")
        if task.threads != self.ranks:
            raise Unsupported(f"{task.threads} threads: the row is of {self.ranks} nodes with one thread each")
        # One token a character, and the one that begins a text.
        prompt = "a" * (task.context if task.metric == "prefill" else 8)
        steps = len(prompt) + 2 if task.metric == "prefill" else len(prompt) + task.tokens
        port = free_port()
        common = ["--nthreads", 1, "--max-seq-len", CONTEXT]
        worker = [BUILD / "dllama", "worker", "--host", "127.0.0.1", "--port", port, "--nthreads", 1]
        command = [BUILD / "dllama", "inference", "--model", model, "--tokenizer", model.with_suffix(".t"), "--buffer-float-type", "q80",
                   "--prompt", prompt, "--steps", steps, *common, "--workers", f"127.0.0.1:{port}"]  # fmt: skip
        process = subprocess.Popen([str(word) for word in worker], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            wait_for_port(port, process)
            text = execute(command)
        finally:
            process.kill()
            process.wait()
        section = "Evaluation" if task.metric == "prefill" else "Prediction"
        found = re.search(rf"^{section}$.*?tokens/s: *([0-9.]+)", text, re.MULTILINE | re.DOTALL)
        if not found:
            raise Failed(f"{shown(command)}: no tokens/s under {section}")
        return Sample(float(found.group(1)), shown([*command[: command.index("--prompt")], *command[command.index("--steps") :]]))


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def wait_for_port(port, process, seconds=20):
    """Until a process listens at the port; looked up, since a connection would be taken for the root's."""
    deadline = time.monotonic() + seconds
    wanted = f":{port:04X} "
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"the server for port {port} ended with {process.returncode}")
        with open("/proc/net/tcp", encoding="ascii") as table:
            if any(line.split()[1].endswith(wanted.strip()) and line.split()[3] == "0A" for line in table.readlines()[1:]):
                return
        time.sleep(0.05)
    raise Failed(f"nothing listens at port {port} after {seconds} s")


def written_model(source):
    """A Q4_0 GGUF file in its own format: its blocks are the same bytes, and rows of q and k are in the same order. Its
    tokenizer has a token for every byte and none that joins any."""
    import gguf

    target = CACHE / "models" / f"{model_name(source)}.q40.m"
    tokenizer = target.with_suffix(".t")
    if target.is_file() and tokenizer.is_file() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    reader = gguf.GGUFReader(source)
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    field = lambda name: reader.get_field(f"llama.{name}").contents()  # noqa: E731
    layers = field("block_count")
    vocabulary = int(tensors["token_embd.weight"].shape[1])

    def as_float(tensor):
        return gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)

    def as_q40(tensor):
        if tensor.tensor_type == gguf.GGMLQuantizationType.Q4_0:
            return tensor.data
        return gguf.quants.quantize(as_float(tensor), gguf.GGMLQuantizationType.Q4_0)

    # Keys as in its converter/writer.py.
    header = {0: 0, 1: LLAMA, 2: field("embedding_length"), 3: field("feed_forward_length"), 4: layers, 5: field("attention.head_count"),
              6: field("attention.head_count_kv"), 7: 0, 8: 0, 9: vocabulary, 10: field("context_length"), 11: SILU,
              12: int(field("rope.freq_base")), 13: Q40, 20: 5}  # fmt: skip
    data = b"".join(struct.pack("<II", key, int(value)) for key, value in header.items())
    part = target.with_suffix(".part")
    with open(part, "wb") as file:
        file.write(struct.pack("<II", 0xA00ABCD, 8 + len(data)) + data)
        file.write(as_float(tensors["token_embd.weight"]).tobytes())
        for layer in range(layers):
            for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_down", "ffn_up"):
                file.write(as_q40(tensors[f"blk.{layer}.{name}.weight"]).tobytes())
            for name in ("attn_norm", "ffn_norm"):
                file.write(as_float(tensors[f"blk.{layer}.{name}.weight"]).tobytes())
        file.write(as_float(tensors["output_norm.weight"]).tobytes())
        file.write(as_q40(tensors.get("output.weight", tensors["token_embd.weight"])).tobytes())
    tokens = [bytes([i]) for i in range(256)] + [f"\x01{i}\x01".encode() for i in range(256, vocabulary)]
    keys = {0: 1, 1: vocabulary, 2: max(map(len, tokens)), 3: 256, 9: 1, 10: 1}
    data = b"".join(struct.pack("<II", key, value) for key, value in keys.items())
    with open(tokenizer, "wb") as file:
        file.write(struct.pack("<II", 0x567124, 8 + len(data)) + data + struct.pack("<I", 257))
        for i, token in enumerate(tokens):
            file.write(struct.pack("<fI", -float(i), len(token)) + token)
    os.replace(part, target)
    return target
