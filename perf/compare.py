#!/usr/bin/env python3
"""LLMIR against other systems on this machine: the same weights, the same threads, runs in turn.

Ours and the peer's run alternate, so that what the machine does besides hits both; a row states the median of the ratios of
neighbouring runs, its least and its greatest. The peer's best setting is chosen first, per row. The bound is measured right
before each of our runs, since a shared host's bandwidth changes by more than half within minutes, and a row states the median of
the runs' fractions of it: memory bandwidth over the bytes of weights that a token reads (decode, batch_decode), operations per
second over the operations that a token takes (prefill).
"""

import argparse
import json
import os
import pathlib
import statistics
import sys

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY / "perf"))

from peers.peer import CACHE, SMOLLM2, Failed, Task, Unsupported, execute  # noqa: E402 (found through the line above)

try:
    import gguf
except ImportError:
    VENV = CACHE / "venv" / "bin" / "python"
    if pathlib.Path(sys.prefix) == VENV.parent.parent or not VENV.is_file():
        sys.exit("compare: error: the Python package gguf is missing; run launch/install.sh --tests")
    os.execv(VENV, [str(VENV), *sys.argv])

from peers.distributed_llama import DistributedLlama  # noqa: E402
from peers.llamacpp import LlamaCpp, model_name  # noqa: E402
from peers.llamacpp_rpc import LlamaCppRpc  # noqa: E402
from peers.llmir import Llmir, OwnQ8  # noqa: E402
from provenance import current_commit  # noqa: E402

PEERS = ["llama.cpp", "openvino", "vllm", "q8", "llama.cpp-rpc", "distributed-llama"]
METRICS = ["prefill", "decode", "long_decode", "batch_decode", "load", "pack_load", "memory", "pack_memory"]
LESS_IS_BETTER = {"load", "pack_load", "memory", "pack_memory"}
UNITS = {"load": "s", "pack_load": "s", "memory": "B", "pack_memory": "B"}  # all others are in tok/s
QUICK_WEIGHTS = ["f16", "q8_0", "q4_0", "q4_1"]
DECODED = 128  # tokens of a decode measurement, as llama-bench's tg128
LONG_CONTEXT = 4096  # tokens before those of long_decode


def make_peer(name, arguments):
    if name == "llama.cpp":
        return LlamaCpp()
    if name == "q8":
        return OwnQ8(arguments.build)
    if name == "llama.cpp-rpc":
        return LlamaCppRpc()
    if name == "distributed-llama":
        return DistributedLlama(arguments.dllama)
    # Only where they are asked for: they need packages of their own.
    if name == "openvino":
        from peers.openvino import OpenVino

        return OpenVino()
    from peers.vllm import Vllm

    return Vllm()


def row_not_run(name, arguments):
    """The row of a peer that can't be had from a registry and wasn't given; None: it can be run."""
    if name == "distributed-llama" and arguments.dllama is None:
        return {"peer": name, "not_run": "no package has it; give a folder with its source: --dllama DIR"}
    return None


def source_model(name):
    """A GGUF file: a path, or random weights of a shape in configs/models, made once."""
    if pathlib.Path(name).is_file():
        return pathlib.Path(name)
    if not (REPOSITORY / "configs" / "models" / f"{name}.yaml").is_file():
        raise Failed(f"--model {name}: neither a GGUF file nor a shape in configs/models")
    target = CACHE / "models" / f"{name}-random.F16.gguf"
    if not target.is_file():
        import make_model

        folder = CACHE / "models" / f"{name}-random"
        shape = make_model.load_shape([name])
        make_model.make_model(shape, 1, folder, hf=False, gguf_as="F16").rename(target)
        folder.rmdir()
    return target


def weights_per_token(model):
    """(bytes, operations) of the matrices that one decoded token of ours multiplies with: all but the rows of an embedding
    that is not the head, too."""
    size = operations = 0
    tensors = gguf.GGUFReader(model.file).tensors
    tied = not any(tensor.name == "output.weight" for tensor in tensors)
    for tensor in tensors:
        if tensor.name == "token_embd.weight" and not tied:
            continue
        matrix = len(tensor.shape) == 2
        size += int(tensor.n_elements) * bits_per_weight(model.weights) / 8 if matrix and model.weights != "keep" else int(tensor.n_bytes)
        if matrix:
            operations += 2 * int(tensor.n_elements)
    return size, operations


def bits_per_weight(name):
    """Of a type that llmir-plan --weights names, scales and minimums of 16 bits included."""
    bits, minimum, *group = name.removeprefix("q").split("_")
    return int(bits) + (32 if minimum == "1" else 16) / int(group[0] if group else 32)


def cached_bytes_per_token(model):
    """Bytes of keys and values, in 16 bits, of a token of the context."""
    fields = gguf.GGUFReader(model.file).fields
    value = lambda name: int(fields[name].contents())
    heads = value("llama.attention.head_count")
    head_dim = value("llama.embedding_length") // heads
    return value("llama.block_count") * 2 * value("llama.attention.head_count_kv") * head_dim * 2


def bound_of(task, weights, model, machine):
    """What the machine could give at most, in the metric's unit; None where no bound is stated."""
    size, operations = weights_per_token(model)
    arithmetic = "int8_gop_per_s" if weights.startswith("q") else "bf16_gflop_per_s" if weights == "bf16" else "fp32_gflop_per_s"
    peak = machine[arithmetic]["median"] * 1e9
    read = machine["read_gb_per_s"]["median"] * 1e9
    if task.metric == "prefill":
        return peak / operations
    if task.metric == "decode":
        return read / size
    if task.metric == "long_decode":
        return read / (size + (task.context + task.tokens / 2) * cached_bytes_per_token(model))
    if task.metric == "batch_decode":
        return min(task.batch * read / size, peak / operations)
    return None


def measure_machine(build, threads):
    """What llmir-bound finds now."""
    return json.loads(execute([build / "bin" / "llmir-bound", "--threads", threads]))


def compare(ours, peer, source, weights, task, repeats, measure, commit):
    """One row. `measure` says what the machine gives with so many threads, now."""
    our_model, their_model = ours.model(source, weights), peer.model(source, weights)
    better = min if task.metric in LESS_IS_BETTER else max
    settings = peer.settings(task)
    best = settings[0]
    if len(settings) > 1:
        best = better(settings, key=lambda setting: peer.run(their_model, task, setting).value)
    pairs, bounds, machines = [], [], []

    def run_ours():
        # Where no bound is stated, what the machine gives is only told, once.
        if not bounds or bounds[0] is not None:
            machines.append(measure(task.threads))
            bounds.append(bound_of(task, weights, our_model, machines[-1]))
        return ours.run(our_model, task, None)

    for repeat in range(repeats):
        runs = [run_ours, lambda: peer.run(their_model, task, best)]
        # The order alternates: neither side always runs on the machine that the other has warmed.
        results = [run() for run in runs] if repeat % 2 == 0 else [run() for run in reversed(runs)][::-1]
        pairs.append(results)
    mine = [a.value for a, _ in pairs]
    theirs = [b.value for _, b in pairs]
    ratios = [b / a if task.metric in LESS_IS_BETTER else a / b for a, b in zip(mine, theirs)]
    bounded = bounds[0] is not None
    return {
        "model": model_name(source),
        "weights": weights,
        "metric": task.metric,
        "threads": task.threads,
        "ranks": peer.ranks,
        "batch": task.batch,
        "context": task.context,
        "ours": statistics.median(mine),
        "peer": peer.name,
        "peer_version": peer.version(),
        "peer_command": pairs[0][1].command,
        "theirs": statistics.median(theirs),
        "ours_parts": {part: statistics.median(a.parts[part] for a, _ in pairs) for part in pairs[0][0].parts or {}},
        "ratio": statistics.median(ratios),
        "bound": statistics.median(bounds) if bounded else None,
        "bound_fraction": statistics.median(value / bound for value, bound in zip(mine, bounds)) if bounded else None,
        "read_gb_per_s": statistics.median(machine["read_gb_per_s"]["median"] for machine in machines),
        "isa": machines[0]["isa"],
        "commit": commit,
        "repeats": repeats,
        "min": min(ratios),
        "max": max(ratios),
    }


def print_row(row):
    fraction = f"{100 * row['bound_fraction']:3.0f} % of the bound, {row['read_gb_per_s']:.1f} GB/s read" if row["bound"] else ""
    print(
        f"{row['model']:24} {row['weights']:5} {row['metric']:12} {row['threads']} thr  batch {row['batch']:<3}"
        f" ours {row['ours']:10.4g}  {row['peer']} {row['theirs']:10.4g} {UNITS.get(row['metric'], 'tok/s'):5}"
        f"  ratio {row['ratio']:.3f} ({row['min']:.3f} to {row['max']:.3f})  {fraction}",
        flush=True,
    )


def write_rows(rows, file):
    """After each row: what was measured stays, whatever ends the run."""
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(rows, indent=1) + "\n")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true",
                        help=f"SmolLM2, {', '.join(QUICK_WEIGHTS)}, prefill 512 and decode, batch 1, 2 threads")  # fmt: skip
    parser.add_argument("--peer", choices=PEERS, action="append", help="may be given several times; q8 is LLMIR itself with q8_0 weights (default: llama.cpp)")
    parser.add_argument("--dllama", type=pathlib.Path, metavar="DIR",
                        help="distributed-llama's source, built for its rows; without it they say 'not run'")  # fmt: skip
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE", help="write the rows")
    parser.add_argument("--model", metavar="GGUF|SHAPE", default=str(SMOLLM2),
                        help="a GGUF file, or a shape in configs/models with random weights (default: SmolLM2)")  # fmt: skip
    parser.add_argument("--weights", nargs="+", metavar="TYPE", help=f"GGUF types; beside peer q8 those of llmir-plan --weights (default: {' '.join(QUICK_WEIGHTS)})")
    parser.add_argument("--metric", nargs="+", choices=METRICS, help="(default: all; with --quick prefill and decode)")
    parser.add_argument("--threads", type=int, nargs="+", help="(default: 2; without --quick also 1)")
    parser.add_argument("--batch", type=int, nargs="+", default=[2, 4, 8, 16], help="batch_decode's (default: 2 4 8 16)")
    parser.add_argument("--repeats", type=int, help="pairs of runs per row (default: 7; with --quick 3)")
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build", help="(default: build)")
    arguments = parser.parse_args()
    if arguments.repeats is not None and arguments.repeats < 1:
        parser.error(f"--repeats: got {arguments.repeats}, expected at least 1")
    arguments.weights = arguments.weights or QUICK_WEIGHTS
    arguments.metric = arguments.metric or (["prefill", "decode"] if arguments.quick else METRICS)
    arguments.threads = arguments.threads or ([2] if arguments.quick else [1, 2])
    arguments.repeats = arguments.repeats or (3 if arguments.quick else 7)
    return arguments


def tasks_of(arguments):
    for threads in arguments.threads:
        for metric in arguments.metric:
            if metric == "prefill":
                yield Task(metric, threads, 1, 512, 0)
            elif metric == "batch_decode":
                for batch in arguments.batch:
                    yield Task(metric, threads, batch, 32, 64)
            elif metric == "long_decode":
                yield Task(metric, threads, 1, LONG_CONTEXT, DECODED // 2)
            elif metric in LESS_IS_BETTER:
                yield Task(metric, threads, 1, 16, 1)
            else:
                yield Task(metric, threads, 1, 1, DECODED)


def main():
    arguments = parse_arguments()
    for name in ("llmir-plan", "llmir-exec", "llmir-bound"):
        if not (arguments.build / "bin" / name).is_file():
            raise Failed(f"{arguments.build / 'bin' / name} is missing; build it: cmake --preset release && cmake --build build")
    commit, rows, skipped = current_commit(), [], 0
    LlamaCpp().prepare()  # makes the other weight types, whoever the peer is
    source = source_model(arguments.model)
    measure = lambda threads: measure_machine(arguments.build, threads)  # noqa: E731
    for name in arguments.peer or ["llama.cpp"]:
        if row := row_not_run(name, arguments):
            rows.append(row)
            write_rows(rows, arguments.json)
            print(f"{name}: not run: {row['not_run']}", flush=True)
            continue
        peer = make_peer(name, arguments)
        peer.prepare()
        ours = Llmir(arguments.build, peer.ranks)
        for weights in arguments.weights:
            for task in tasks_of(arguments):
                try:
                    row = compare(ours, peer, source, weights, task, arguments.repeats, measure, commit)
                except Unsupported as reason:
                    skipped += 1
                    print(f"no row: {name}, {weights}, {task.metric}: {reason}", flush=True)
                    continue
                rows.append(row)
                write_rows(rows, arguments.json)
                print_row(row)
    print(f"{len(rows)} rows, {skipped} not supported by the peer")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"compare: error: {error}")
