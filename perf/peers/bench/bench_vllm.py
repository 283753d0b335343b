"""Run by peers/vllm.py inside vLLM's virtual environment; prints tokens/s.

usage: bench_vllm.py FOLDER DTYPE eager|compiled METRIC BATCH CONTEXT TOKENS
"""

import random
import sys
import time

from vllm import LLM, SamplingParams


def main():
    folder, dtype, mode, metric = sys.argv[1:5]
    batch, context, tokens = map(int, sys.argv[5:])
    random.seed(0)
    engine = LLM(
        model=folder, dtype=dtype, max_model_len=2048, enforce_eager=mode == "eager", enable_prefix_caching=False,
        max_num_seqs=max(batch, 16), max_num_batched_tokens=4096,
    )  # fmt: skip

    def seconds(prompts, count):
        sampling = SamplingParams(temperature=0, max_tokens=count, min_tokens=count, ignore_eos=True)
        begin = time.perf_counter()
        engine.generate(prompts, sampling, use_tqdm=False)
        return time.perf_counter() - begin

    def prompts(length):
        return [{"prompt_token_ids": [random.randrange(3, 250) for _ in range(length)]} for _ in range(batch)]

    seconds(prompts(64), 4)  # warm-up
    if metric == "prefill":
        rate = context / seconds(prompts(context), 1)
    else:
        inputs = prompts(context)
        first = seconds(inputs, 1)  # its prefill and first token, taken off below
        rate = batch * tokens / (seconds(inputs, tokens + 1) - first)
    print(rate)


# vLLM starts processes that import this file again.
if __name__ == "__main__":
    main()
