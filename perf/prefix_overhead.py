#!/usr/bin/env python3
"""What keeping prefixes costs where prompts share nothing: instructions of whole runs, counted by callgrind (AVX2). Prints JSON.

    perf/prefix_overhead.py [MODEL.gguf] [--prompts 4] [--tokens 1000] [-o FILE]

Prompts, no two of which begin alike, run with prefixes kept and with --forget-prefixes, one thread, one token of answer, on a
random model of one small layer: the tree sees ids and blocks, whatever the model's size. What the difference is a part of are
the instructions of MODEL for a prompt of as many tokens, taken to be so many times those of a tenth of them: less than they
are, since attention grows faster. Takes minutes: callgrind runs a hundredth as fast as the processor.
"""

import argparse
import json
import pathlib
import random
import sys
import tempfile

from instructions import whole
from peers.peer import SMOLLM2, Failed, execute
from provenance import REPOSITORY, current_commit, machine, own_command, write_result



SMALL = ["tiny-test", "layers=1", "vocabulary=49152", "context=2048"]
PART = 10


class Counter:
    def __init__(self, build, folder):
        self.bin, self.folder = build / "bin", folder

    def count(self, model, prompts, tokens, *options):
        """Instructions of a run of so many prompts."""
        source = random.Random(1)
        lines = [{"prompt_ids": [source.randrange(3, 49000) for _ in range(tokens)], "max_tokens": 1} for _ in range(prompts)]
        (self.folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        execute([self.bin / "llmir-plan", model, "-o", self.folder / "plan.fb", "--weights", "keep", "--max-batch", 1, "--context", 1040])
        print(f"counting instructions: {model.stem}, {prompts} prompts of {tokens} tokens {' '.join(options)}", file=sys.stderr)
        return whole([self.bin / "llmir-exec", self.folder / "plan.fb", "--threads", 1, "--prompts", self.folder / "prompts.jsonl",
                      "--output", self.folder / "output.jsonl", "--quiet", *options])  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=pathlib.Path, default=SMOLLM2)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build", help="(default: build)")
    parser.add_argument("--prompts", type=int, default=4, help="(default: 4)")
    parser.add_argument("--tokens", type=int, default=1000, help="of a prompt (default: 1000)")
    parser.add_argument("-o", "--output", type=pathlib.Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmir-prefix-overhead-") as name:
        folder = pathlib.Path(name)
        counter = Counter(arguments.build, folder)
        execute([sys.executable, REPOSITORY / "perf" / "make_model.py", *SMALL, "--seed", "1", "--out", folder / "small", "--no-hf"])
        (small,) = folder.rglob("*.gguf")
        kept = counter.count(small, arguments.prompts, arguments.tokens)
        forgotten = counter.count(small, arguments.prompts, arguments.tokens, "--forget-prefixes")
        part = arguments.tokens // PART
        prompt = (counter.count(arguments.model, 1, part) - counter.count(arguments.model, 1, 1)) * PART
    overhead = (kept - forgotten) / arguments.prompts
    result = {
        "machine": machine(),
        "commit": current_commit(),
        "command": own_command(),
        "model": arguments.model.name,
        "prompts": arguments.prompts,
        "tokens": arguments.tokens,
        "overhead_instructions_per_prompt": overhead,
        "least_instructions_per_prompt": prompt,
        "overhead": overhead / prompt,
    }
    write_result(result, arguments.output)


if __name__ == "__main__":
    try:
        main()
    except (Failed, RuntimeError) as error:
        sys.exit(f"prefix_overhead: error: {error}")
