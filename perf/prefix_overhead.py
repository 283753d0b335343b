#!/usr/bin/env python3
"""What keeping prefixes costs where prompts share nothing: instructions of whole runs, counted by callgrind (AVX2). Prints JSON.

    perf/prefix_overhead.py [MODEL.gguf] [--prompts 2] [--tokens 1000] [-o FILE]

The same prompts, no two of which begin alike, run with prefixes kept and with --forget-prefixes, one thread, one token of answer.
Takes minutes: callgrind runs a hundredth as fast as the processor.
"""

import argparse
import json
import pathlib
import random
import sys
import tempfile

from instructions import whole
from peers.peer import CACHE, Failed, execute
from provenance import REPOSITORY, current_commit, machine, own_command, write_result

SMOLLM2 = CACHE / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=pathlib.Path, default=SMOLLM2)
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build", help="(default: build)")
    parser.add_argument("--prompts", type=int, default=2, help="(default: 2)")
    parser.add_argument("--tokens", type=int, default=1000, help="of a prompt (default: 1000)")
    parser.add_argument("-o", "--output", type=pathlib.Path)
    arguments = parser.parse_args()
    counts = {}
    with tempfile.TemporaryDirectory(prefix="llmir-prefix-overhead-") as name:
        folder = pathlib.Path(name)
        source = random.Random(1)
        lines = [{"prompt_ids": [source.randrange(3, 49000) for _ in range(arguments.tokens)], "max_tokens": 1} for _ in range(arguments.prompts)]
        (folder / "prompts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        execute([arguments.build / "bin" / "llmir-plan", arguments.model, "-o", folder / "plan.fb", "--weights", "keep", "--max-batch", 1,
                 "--context", arguments.tokens + 16])  # fmt: skip
        command = [arguments.build / "bin" / "llmir-exec", folder / "plan.fb", "--threads", 1, "--prompts", folder / "prompts.jsonl",
                   "--output", folder / "output.jsonl", "--quiet"]  # fmt: skip
        for kept, extra in (("kept", []), ("forgotten", ["--forget-prefixes"])):
            print(f"counting instructions, prefixes {kept}", file=sys.stderr)
            counts[kept] = whole([*command, *extra])
    result = {
        "machine": machine(),
        "commit": current_commit(),
        "command": own_command(),
        "model": arguments.model.name,
        "prompts": arguments.prompts,
        "tokens": arguments.tokens,
        "instructions": counts,
        "overhead": counts["kept"] / counts["forgotten"] - 1,
    }
    write_result(result, arguments.output)


if __name__ == "__main__":
    try:
        main()
    except (Failed, RuntimeError) as error:
        sys.exit(f"prefix_overhead: error: {error}")
