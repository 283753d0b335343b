"""The AVX2 kernels take no more than 5 % more instructions than what perf/results/instructions-avx2.json keeps."""

import json

import instructions  # of perf/, found through conftest
import llmir


def test_no_kernel_takes_more_instructions():
    counts = instructions.count(llmir.BUILD)
    assert len(counts) > 40
    assert instructions.grown(counts, json.loads(instructions.KEPT.read_text())) == []


def test_more_instructions_are_noticed():
    assert instructions.grown({"a": 106}, {"a": 100}) == ["a: 106 instructions, kept 100, allowed 105"]
    assert instructions.grown({"a": 104}, {"a": 100}) == []
    assert len(instructions.grown({"a": 1, "b": 1}, {"a": 1, "c": 1})) == 2
