"""A rank that is slower than the others is named, with what they waited for it."""

import json
import os
import pathlib
import signal
import subprocess
import time

import llmir
import pytest

# Wide, so that ranks spend most of their time computing: stopped within an all-reduce, after all have come to it, a rank isn't
# told from its link.
SHAPE = ("tiny-test", "layers=4", "query_heads=8", "kv_heads=4", "hidden=1024", "mlp_columns=4096", "vocabulary=512", "context=1024")


def rank_process(mpirun, rank):
    """The process of a rank below this mpirun."""
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes().split(b"\0")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue  # not ours, or gone
        if parent == mpirun and f"OMPI_COMM_WORLD_RANK={rank}".encode() in environment:
            return int(folder.name)
    return None


@pytest.mark.parametrize(("tp", "pp", "slow"), [(2, 1, 1), (1, 2, 1), (3, 1, 0)])
def test_a_rank_that_is_stopped_again_and_again_is_named(models, tmp_path, tp, pp, slow):
    _, file = models.random(*SHAPE)
    job = models.job(file, "--context", 1024, "--max-batch", 4, "--prefill-chunk", 64, tp=tp, pp=pp)
    prompts = [{"prompt_ids": [3 + i, 5, 7], "max_tokens": 120} for i in range(4)]
    llmir.write_jsonl(tmp_path / "prompts.jsonl", prompts)
    command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", str(tp * pp), llmir.program("llmir-exec"), str(job.plan),
               "--threads", "1", "--ignore-eos", "--prompts", str(tmp_path / "prompts.jsonl"), "--output", str(tmp_path / "output.jsonl"),
               "--report", str(tmp_path / "report.json")]  # fmt: skip
    environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    # One part of four of its time is left to it.
    deadline = time.monotonic() + llmir.TIMEOUT_S
    process = None
    while running.poll() is None and time.monotonic() < deadline:
        process = process or rank_process(running.pid, slow)
        if process is not None:
            try:
                os.kill(process, signal.SIGSTOP)
                time.sleep(0.03)
                os.kill(process, signal.SIGCONT)
            except ProcessLookupError:
                break
        time.sleep(0.01)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 0, errors
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["slowest"]["rank"] == slow, report["slowest"]
    assert report["slowest"]["times_median"] > 1.5
    assert f"slowest: rank {slow}, " in errors
    seconds = [rank["seconds"] for rank in report["ranks"]]
    for rank, parts in enumerate(seconds):
        assert min(parts.values()) >= 0
        if rank != slow:
            assert parts["wait"] > parts["transfer"], "they wait more than data travels"
    if pp == 1:
        # Between stages rank 0 waits for ids outside of programs.
        assert report["slowest"]["awaited_seconds"] > 0.5 * max(parts["wait"] for parts in seconds)
