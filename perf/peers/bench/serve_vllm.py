"""Run by perf/serving.py inside vLLM's virtual environment; prints generated tokens/s.

usage: serve_vllm.py FOLDER DTYPE eager|compiled SLOTS CONTEXT REQUESTS

REQUESTS is a file of lines with prompt_ids and max_tokens. All are submitted at once; prefixes are kept, as a server keeps them.
"""

import json
import pathlib
import sys
import time

from vllm import LLM, SamplingParams


def main():
    folder, dtype, mode, slots, context, file = sys.argv[1:]
    engine = LLM(
        model=folder, dtype=dtype, max_model_len=int(context), enforce_eager=mode == "eager", enable_prefix_caching=True,
        max_num_seqs=int(slots), max_num_batched_tokens=2048,
    )  # fmt: skip

    def tokens_per_s(lines):
        sampling = [
            SamplingParams(temperature=0, max_tokens=line["max_tokens"], min_tokens=line["max_tokens"], ignore_eos=True) for line in lines
        ]
        prompts = [{"prompt_token_ids": line["prompt_ids"]} for line in lines]
        begin = time.perf_counter()
        answers = engine.generate(prompts, sampling, use_tqdm=False)
        seconds = time.perf_counter() - begin
        return sum(len(answer.outputs[0].token_ids) for answer in answers) / seconds

    tokens_per_s([{"prompt_ids": list(range(5 + i, 37 + i)), "max_tokens": 4} for i in range(4)])  # warm-up
    print(tokens_per_s([json.loads(line) for line in pathlib.Path(file).read_text().splitlines()]))


# vLLM starts processes that import this file again.
if __name__ == "__main__":
    main()
