"""llmir-fusion, which times the fused append and attend against the two steps."""

import fusion  # of perf/, found through conftest
import llmir


def test_pairs_are_timed():
    times = fusion.kernel_times(llmir.BUILD, 20, kv="bf16", threads=1)
    assert times["pairs"] == 20
    for name in ("fused_us", "unfused_us", "ratio"):
        assert 0 < times[name]["q25"] <= times[name]["median"] <= times[name]["q75"]
