"""llama.cpp, built natively from the source that PyPI's llama-cpp-python carries."""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from peers.peer import CACHE, Failed, Peer, Sample, Task, Unsupported, execute, execute_measured

PACKAGE_VERSION = "0.3.36"
BUILD = CACHE / "peers" / f"llama.cpp-{PACKAGE_VERSION}"
FIRST_TOKEN = pathlib.Path(__file__).resolve().parent / "bench" / "first_token_llamacpp.cc"
TARGETS = ["llama-bench", "llama-batched-bench", "llama-quantize", "llama-server", "llama-perplexity"]
CMAKE_OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DGGML_RPC=ON", "-DLLAMA_CURL=OFF", "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF",
]  # fmt: skip
LOADING = ("load", "pack_load", "memory", "pack_memory")
# GGUF types that LLMIR reads too.
WEIGHTS = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_1"]


class LlamaCpp(Peer):
    name = "llama.cpp"
    targets = TARGETS

    def prepare(self):
        built = all((BUILD / "bin" / target).is_file() for target in self.targets)
        if built and (BUILD / "include" / "llama.h").is_file():
            self.build_first_token()
            return
        if not built:
            print(f"building llama.cpp into {BUILD} (10 to 20 minutes on 2 cores, once)", file=sys.stderr)
        BUILD.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=BUILD.parent) as work:
            execute([sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--no-deps", "--no-binary", "llama-cpp-python",
                     "-d", work, f"llama-cpp-python=={PACKAGE_VERSION}"])  # fmt: skip
            execute(["tar", "-xzf", next(pathlib.Path(work).glob("*.tar.gz")), "-C", work])
            source = next(pathlib.Path(work).glob("*/vendor/llama.cpp"))
            if not built:
                # An earlier build's, of a source that is gone.
                (BUILD / "CMakeCache.txt").unlink(missing_ok=True)
                execute(["cmake", "-G", "Ninja", "-S", source, "-B", BUILD, *CMAKE_OPTIONS])
                execute(["cmake", "--build", BUILD, "--target", *self.targets], timeout=7200)
            (BUILD / "include").mkdir(exist_ok=True)
            for header in [*source.glob("include/*.h"), *source.glob("ggml/include/*.h")]:
                shutil.copy(header, BUILD / "include")
        self.build_first_token()

    def build_first_token(self):
        """What measures the load; llama.cpp's own programs don't say it."""
        program = BUILD / "bin" / "first-token"
        if program.is_file() and program.stat().st_mtime >= FIRST_TOKEN.stat().st_mtime:
            return
        execute(["g++", "-std=c++20", "-O2", "-I", BUILD / "include", FIRST_TOKEN, "-o", program, "-L", BUILD / "bin",
                 f"-Wl,-rpath,{BUILD / 'bin'}", "-lllama", "-lggml", "-lggml-base"])  # fmt: skip

    def version(self):
        # The program's own number is of no repository: the source came without one.
        return f"llama-cpp-python {PACKAGE_VERSION}"

    def settings(self, task):
        modes = (1, 0) if task.metric in LOADING else (1,)
        return [(flash, repack, mmap) for flash in ("on", "off") for repack in (1, 0) for mmap in modes]

    def model(self, source, weights):
        return gguf_with_weights(source, weights)

    def run(self, model, task: Task, setting):
        flash, repack, mmap = setting
        threads = str(task.threads)
        if task.metric in ("prefill", "decode", "long_decode"):
            if task.batch != 1:
                raise Unsupported("llama-bench measures one sequence")
            prompt, generated = (task.context, 0) if task.metric == "prefill" else (0, task.tokens)
            command = [BUILD / "bin" / "llama-bench", "-m", model, "-t", threads, "-p", prompt, "-n", generated, "-r", 1,
                       "-fa", flash, "--repack", repack, "-o", "json"]  # fmt: skip
            if task.metric != "prefill" and task.context > 1:
                command += ["-d", task.context]
            (result,) = json.loads(execute(command))
            return Sample(result["avg_ts"], shown(command))
        if task.metric == "batch_decode":
            length = (task.context + task.tokens) * task.batch + 64
            command = [BUILD / "bin" / "llama-batched-bench", "-m", model, "-t", threads, "-c", length, "-b", 2048, "-ub", 512,
                       "-npp", task.context, "-ntg", task.tokens, "-npl", task.batch, "-fa", flash,
                       "--repack" if repack else "--no-repack", "--output-format", "jsonl"]  # fmt: skip
            lines = [line for line in execute(command).splitlines() if line.startswith("{")]
            return Sample(json.loads(lines[-1])["speed_tg"], shown(command))
        if task.metric in LOADING:
            command = [BUILD / "bin" / "first-token", model, threads, task.context, 1024, int(flash == "on"), repack, mmap]
            if task.metric.endswith("memory"):
                return Sample(float(execute_measured(command, "first-token")), shown(command))
            return Sample(json.loads(execute(command))["seconds"], shown(command))
        raise Unsupported(f"metric {task.metric}")


def shown(command):
    """A command for people and records: no machine's folders."""
    return " ".join(os.path.basename(word) if os.sep in word else word for word in map(str, command))


def model_name(source):
    """The file's name without .gguf and without the weights' type."""
    name, dot, last = source.stem.rpartition(".")
    return name if dot and last.lower() in WEIGHTS else source.stem


def gguf_with_weights(source, weights):
    """`source` with other weights, made by llama-quantize once and kept in the cache."""
    source = pathlib.Path(source)
    if weights not in WEIGHTS:
        raise Unsupported(f"weights {weights}: not a type that both read ({', '.join(WEIGHTS)})")
    if source.stem.lower().endswith("." + weights):
        return source
    target = CACHE / "models" / f"{model_name(source)}.{weights.upper()}.gguf"
    if target.is_file() and target.stat().st_mtime >= source.stat().st_mtime:
        return target
    part = target.with_suffix(".part")
    # Embedding and head in q8_0, as in the published Q4_1 file; llama-quantize would take a type that LLMIR doesn't read.
    types = ["--token-embedding-type", "q8_0", "--output-tensor-type", "q8_0"] if weights.startswith("q4") else []
    command = [BUILD / "bin" / "llama-quantize", "--allow-requantize", *types, source, part, weights.upper()]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, errors="replace")
    if done.returncode:
        part.unlink(missing_ok=True)
        raise Failed(f"{shown(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    part.rename(target)
    return target
