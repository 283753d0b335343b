"""What the fused append and attend saves, counted: the reads of the new keys and values that the two passes make."""

import fusion  # of perf/, found through conftest
import llmir
import pytest

SHAPE = {"batch": 32, "context": 64, "query_heads": 9, "kv_heads": 3, "head_dim": 64}


@pytest.mark.parametrize("kv", ["bf16", "f32"])
def test_data_reads_differ_by_what_is_not_read_back(kv):
    reads = fusion.data_reads(llmir.BUILD, {**SHAPE, "kv": kv})
    assert reads["difference"] == pytest.approx(reads["expected"], rel=0.1), reads


def test_pairs_are_timed():
    times = fusion.kernel_times(llmir.BUILD, 20, kv="bf16", threads=1)
    assert times["pairs"] == 20
    for name in ("fused_us", "unfused_us", "ratio"):
        assert 0 < times[name]["q25"] <= times[name]["median"] <= times[name]["q75"]
