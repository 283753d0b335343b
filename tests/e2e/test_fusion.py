"""llmir-fusion, which times the fused append and attend against the two steps."""

import fusion  # of perf/, found through conftest
import llmir


def test_pairs_are_timed():
    times = fusion.kernel_times(llmir.BUILD, 20, kv="bf16", threads=1)
    assert times["pairs"] == 20
    for name in ("fused_us", "unfused_us", "ratio"):
        assert 0 < times[name]["q25"] <= times[name]["median"] <= times[name]["q75"]


def test_fused_kernel_reads_less_by_what_attention_would_read_again():
    """Of float caches; in bfloat16 ones the AVX2 kernel also reads rounding's constants (perf/fusion.py reports both)."""
    reads = fusion.data_reads(llmir.BUILD, {"batch": 32, "context": 64, "query_heads": 9, "kv_heads": 3, "head_dim": 64, "kv": "f32"})
    assert abs(reads["difference"] - reads["expected"]) <= 0.1 * reads["expected"], reads
