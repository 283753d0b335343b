#!/usr/bin/env python3
"""The paper's Table III (speed-up of LLaMA-2 70B on 2, 4 and 8 A100 80 GB), simulated from a cluster file of datasheet constants.

Nothing is fitted and nothing is measured: llmir-plan makes the plan of each layout from the model's shape, llmir-inspect simulate
plays its programs on configs/clusters/a100x8.yaml. The paper says neither batch, lengths nor types; here they are options. Its
speed-ups are over one GPU, whose 80 GB don't hold the 138 GB of 70B in 16 bits: that run is simulated as if they did.
Pipelines have as many steps in flight as stages. What a batch means then is not said either, so there are two tables: each step
in flight has the batch (a pipeline of N stages decodes N times the sequences), or all steps in flight share it.
"""

import argparse
import json
import pathlib
import sys
import tempfile

from peers.peer import Failed, execute
from provenance import REPOSITORY, current_commit

PAPER = {
    "tensor": {2: 1.87, 4: 3.65, 8: 7.12},
    "pipeline": {2: 1.92, 4: 3.78, 8: 7.41},
    "hybrid": {2: 1.95, 4: 3.82, 8: 7.56},
}
# (tp, pp) of each row. Two GPUs leave a hybrid no choice but one of the two: the better is taken.
LAYOUTS = {
    "tensor": {2: [(2, 1)], 4: [(4, 1)], 8: [(8, 1)]},
    "pipeline": {2: [(1, 2)], 4: [(1, 4)], 8: [(1, 8)]},
    "hybrid": {2: [(2, 1), (1, 2)], 4: [(2, 2)], 8: [(2, 4), (4, 2)]},
}


def simulate(arguments, folder, tp, pp, shared):
    """What llmir-inspect simulate says of a layout; `shared`: the steps in flight share the batch."""
    batch = arguments.batch * (1 if shared else pp)
    plan = folder / f"{tp}x{pp}-{batch}.fb"
    if not plan.is_file():
        execute([arguments.build / "bin" / "llmir-plan", REPOSITORY / "configs" / "models" / "llama-2-70b.yaml", "-o", plan, "--tp", tp,
                 "--pp", pp, "--max-batch", batch, "--context", arguments.context, "--weights", arguments.weights])  # fmt: skip
    shown = execute([arguments.build / "bin" / "llmir-inspect", "simulate", plan, "--cluster", arguments.cluster, "--batch",
                     batch, "--prompt", 512, "--context", arguments.context / 2, "--in-flight", pp, "--json"])  # fmt: skip
    return json.loads(shown)


def table(arguments, folder, shared):
    """(row of one GPU, rows of the table)"""
    one = simulate(arguments, folder, 1, 1, shared)
    rows = []
    for strategy, by_gpus in LAYOUTS.items():
        for gpus, layouts in by_gpus.items():
            found = {layout: simulate(arguments, folder, *layout, shared) for layout in layouts}
            layout = max(found, key=lambda key: found[key]["decode_tokens_per_s"])
            speed_up = found[layout]["decode_tokens_per_s"] / one["decode_tokens_per_s"]
            rows.append({
                "strategy": strategy,
                "gpus": gpus,
                "tp": layout[0],
                "pp": layout[1],
                "fits": found[layout]["fits"],
                "simulated": speed_up,
                "paper": PAPER[strategy][gpus],
                "deviation": speed_up / PAPER[strategy][gpus] - 1,
                "tokens_per_s": found[layout]["decode_tokens_per_s"],
            })  # fmt: skip
    return one, rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=64, help="sequences that decode at once (default: 64)")
    parser.add_argument("--context", type=int, default=2048, help="tokens of a sequence in the end; half of them count (default: 2048)")
    parser.add_argument("--weights", default="bf16", help="as of llmir-plan (default: bf16)")
    parser.add_argument("--cluster", type=pathlib.Path, default=REPOSITORY / "configs" / "clusters" / "a100x8.yaml")
    parser.add_argument("--json", type=pathlib.Path, metavar="FILE")
    parser.add_argument("--build", type=pathlib.Path, default=REPOSITORY / "build", help="(default: build)")
    arguments = parser.parse_args()
    result = {
        "what": "simulation",
        "command": f"perf/table3.py --batch {arguments.batch} --context {arguments.context} --weights {arguments.weights}",
        "commit": current_commit(),
        "cluster": arguments.cluster.name,
        "weights": arguments.weights,
        "batch": arguments.batch,
        "context": arguments.context / 2,
        "tables": [],
    }
    with tempfile.TemporaryDirectory(prefix="llmir-table3-") as name:
        for shared in (False, True):
            one, rows = table(arguments, pathlib.Path(name), shared)
            whose = "all steps in flight together" if shared else "each step in flight"
            print(f"Simulation, not a measurement: LLaMA-2 70B, {arguments.weights}, batch {arguments.batch} of {whose}, context"
                  f" {arguments.context // 2}; one GPU {one['decode_tokens_per_s']:.0f} tokens/s"
                  f"{'' if one['fits'] else ' if its memory were large enough'}")  # fmt: skip
            print(f"{'strategy':10} {'GPUs':>4} {'tp x pp':>8} {'simulated':>10} {'paper':>6} {'deviation':>10}")
            for row in rows:
                print(f"{row['strategy']:10} {row['gpus']:4} {row['tp']:>4} x {row['pp']} {row['simulated']:9.2f}x {row['paper']:5.2f}x"
                      f" {100 * row['deviation']:+9.1f} %{'' if row['fits'] else '  (does not fit)'}")  # fmt: skip
            result["tables"].append({"batch_of": whose, "one_gpu_tokens_per_s": one["decode_tokens_per_s"], "one_gpu_fits": one["fits"],
                                     "rows": rows})  # fmt: skip
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"table3: error: {error}")
