"""Run by peers/openvino.py inside OpenVINO's virtual environment; prints tokens/s.

usage: bench_openvino.py MODEL SDPA|PA|continuous METRIC THREADS BATCH CONTEXT TOKENS
"""

import sys
import time

import numpy as np
import openvino
import openvino_genai

model, backend, metric = sys.argv[1:4]
threads, batch, context, tokens = map(int, sys.argv[4:])
random = np.random.default_rng(0)


def prompts(length):
    return [openvino.Tensor(random.integers(3, 250, (1, length)).astype(np.int64)) for _ in range(batch)]


def options(count):
    config = openvino_genai.GenerationConfig()
    config.max_new_tokens = config.min_new_tokens = count
    config.ignore_eos = True
    config.do_sample = False
    return config


if backend == "continuous":
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.cache_size = 1  # GB
    scheduler.max_num_batched_tokens = 2048
    scheduler.enable_prefix_caching = False
    pipeline = openvino_genai.ContinuousBatchingPipeline(model, scheduler, "CPU", {"INFERENCE_NUM_THREADS": threads})

    def generate(inputs, count):
        pipeline.generate(inputs, [options(count)] * batch)
else:
    pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads, ATTENTION_BACKEND=backend)

    def generate(inputs, count):
        pipeline.generate(inputs[0], options(count))


def seconds(inputs, count):
    begin = time.perf_counter()
    generate(inputs, count)
    return time.perf_counter() - begin


seconds(prompts(32), 4)  # warm-up
if metric == "prefill":
    print(context / seconds(prompts(context), 1))
else:
    inputs = prompts(context)
    first = seconds(inputs, 1)  # its prefill and first token, taken off below
    print(batch * tokens / (seconds(inputs, tokens + 1) - first))
