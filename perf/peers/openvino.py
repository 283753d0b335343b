"""OpenVINO GenAI on the CPU, in a virtual environment of its own."""

import json
import pathlib

from peers.gguf_to_folder import folder_from_gguf
from peers.llamacpp import shown
from peers.peer import CACHE, Peer, Sample, Unsupported, execute, virtual_environment

PACKAGES = ["openvino-genai", "openvino", "openvino-tokenizers", "optimum-intel", "nncf", "transformers", "torch"]
# Its formats, by the GGUF type that takes as many bits; fp16 it multiplies in bf16 where the processor has products of that.
# 4 bits come in groups of 64: 128 doesn't divide SmolLM2's 576 columns.
FORMATS = {
    "f32": ["fp32"], "f16": ["fp16"], "bf16": ["fp16"], "q8_0": ["int8"],
    "q4_0": ["int4", "--group-size", "64"], "q4_1": ["int4", "--group-size", "64"],
}  # fmt: skip

# In a folder of its own: beside this file, `import openvino` would find this file.
BENCH = pathlib.Path(__file__).parent / "bench" / "bench_openvino.py"


class OpenVino(Peer):
    name = "openvino"

    def prepare(self):
        self.python = virtual_environment("openvino", PACKAGES)

    def version(self):
        return execute([self.python, "-c", "import openvino_genai; print(openvino_genai.__version__)"]).strip()

    def settings(self, task):
        return ["SDPA", "PA"] if task.batch == 1 else ["continuous"]

    def model(self, source, weights):
        if weights not in FORMATS:
            raise Unsupported(f"weights {weights}: OpenVINO has {', '.join(FORMATS)} or what takes as many bits")
        folder = folder_from_gguf(source)
        name, *options = FORMATS[weights]
        target = CACHE / "models" / f"{folder.name}.openvino-{name}"
        if not (target / "openvino_model.bin").is_file():
            exporter = self.python.with_name("optimum-cli")
            execute([exporter, "export", "openvino", "-m", folder, "--task", "text-generation-with-past", "--weight-format", name,
                     *options, target], timeout=3600)  # fmt: skip
        return target

    def run(self, model, task, setting):
        if task.metric not in ("prefill", "decode", "long_decode", "batch_decode"):
            raise Unsupported(f"metric {task.metric}: no such measurement for OpenVINO")
        command = [self.python, BENCH, model, setting, task.metric, task.threads, task.batch, task.context, task.tokens]
        return Sample(float(json.loads(execute(command).splitlines()[-1])), shown(command))
