"""Our own side of every comparison: llmir-plan and llmir-exec as a user runs them, on as many ranks as the peer has."""

import dataclasses
import json
import pathlib
import tempfile

from peers.llamacpp import WEIGHTS, gguf_with_weights, shown
from peers.peer import Peer, Sample, Task, execute, execute_measured

ENVIRONMENT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


@dataclasses.dataclass(frozen=True)
class Model:
    file: pathlib.Path
    weights: str  # llmir-plan's --weights
    options: tuple = ()  # and others


class Llmir(Peer):
    name = "llmir"

    def __init__(self, build, ranks=1):
        self.ranks = ranks
        self.build = pathlib.Path(build)
        self.folder = tempfile.TemporaryDirectory(prefix="llmir-compare-")
        self.plans = {}

    def version(self):
        return execute([self.build / "bin" / "llmir-exec", "--version"]).split()[-1]

    def model(self, source, weights):
        if weights in WEIGHTS:
            # Others round activations to bf16 too where weights are bf16.
            options = ("--bf16-activations",) if weights == "bf16" else ()
            return Model(gguf_with_weights(source, weights), "keep", options)
        return Model(pathlib.Path(source), weights)

    def plan(self, model, task):
        """A plan for a task's sequences. Prompts of several fit into one step, so that all start to decode at once."""
        packed = task.metric.startswith("pack_")
        key = (model, task.batch, task.context, packed)
        if key not in self.plans:
            path = pathlib.Path(self.folder.name) / f"{len(self.plans)}.plan.fb"
            execute([self.build / "bin" / "llmir-plan", model.file, "-o", path, "--weights", model.weights, *model.options,
                     "--tp", self.ranks,
                     "--max-batch", task.batch, "--context", max(1024, task.context + task.tokens + 1),
                     "--prefill-chunk", max(task.batch * task.context, 512) if task.batch > 1 else 512,
                     *(("--pack", path.with_suffix(".pack")) if packed else ())])  # fmt: skip
            self.plans[key] = path
        return self.plans[key]

    def run(self, model, task: Task, setting):
        # Ids vary from prompt to prompt, so that nothing could be reused; which ones they are doesn't matter.
        def ids(seed, count):
            return [(seed * 7919 + i * 104729) % 250 + 3 for i in range(count)]

        warm_up = {"prompt_ids": ids(1, 512), "max_tokens": 1}
        if task.metric == "prefill":
            lines = [warm_up, {"prompt_ids": ids(2, task.context), "max_tokens": 1}]
        elif task.metric in ("decode", "long_decode"):
            lines = [warm_up, {"prompt_ids": ids(3, task.context), "max_tokens": task.tokens + 1}]
        elif task.metric == "batch_decode":
            lines = [{"prompt_ids": ids(4 + i, task.context), "max_tokens": task.tokens + 1} for i in range(task.batch)]
        else:
            lines = [{"prompt_ids": ids(5, task.context), "max_tokens": 1}]
        prompts, output = (pathlib.Path(self.folder.name) / name for name in ("prompts.jsonl", "output.jsonl"))
        prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
        measures_load = task.metric.endswith("load")
        report = pathlib.Path(self.folder.name) / "report.json"
        command = ["mpirun", "--bind-to", "none", "-n", self.ranks, self.build / "bin" / "llmir-exec",
                   self.plan(model, task), "--threads", task.threads // self.ranks, "--prompts", prompts,
                   "--output", output, "--ignore-eos", "--quiet"]  # fmt: skip
        if task.metric.endswith("memory"):
            return Sample(float(execute_measured(command, "llmir-exec", environment=ENVIRONMENT)), shown(command))
        if measures_load:
            execute([*command, "--report", report], environment=ENVIRONMENT)
            held = json.loads(report.read_text())
            first, rank = held["first_token"], held["ranks"][0]
            parts = {name: first[name] for name in ("plan_seconds", "prompt_seconds", "prefill_seconds")}
            return Sample(first["seconds"], shown(command), {**rank["load"], **parts})
        execute(command, environment=ENVIRONMENT)
        results = [json.loads(line) for line in output.read_text().splitlines()]
        if task.metric == "prefill":
            # One sequence at a time: the second starts when the first has ended, and its time counts from submission.
            begin = results[0]["ttft_ms"] + results[0]["decode_ms"]
            value = task.context / (results[1]["ttft_ms"] - begin) * 1e3
        elif task.metric in ("decode", "long_decode"):
            value = task.tokens / results[1]["decode_ms"] * 1e3
        else:
            value = task.batch * task.tokens / max(result["decode_ms"] for result in results) * 1e3
        return Sample(value, shown(command))


class OwnQ8(Llmir):
    """Ourselves with q8_0 weights, whatever the other side has: what fewer bits are measured against."""

    name = "llmir q8"

    def model(self, source, weights):
        return Model(pathlib.Path(source), "q8_0")
