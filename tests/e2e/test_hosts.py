"""Ranks on several hosts: network namespaces of this machine, with TCP between them (tests/cluster/hosts.sh)."""

import json
import re
import signal
import subprocess
import time

import llmir
import numpy as np
import pytest

HOSTS = llmir.REPOSITORY / "tests" / "cluster" / "hosts.sh"
OPTIONS = ("--context", 128, "--max-batch", 2, "--block-size", 16, "--prefill-chunk", 64)


class HostsJob(llmir.Job):
    """A job whose ranks are spread over hosts: `hosts` says how many each has, as hosts.sh takes it."""

    def __init__(self, job, hosts, folder):
        super().__init__(job.plan, job.ranks, folder)
        self.hosts = hosts

    def run(self, *options, **arguments):
        return llmir.run([HOSTS, self.hosts, "--", llmir.program("llmir-exec"), self.plan, *options], **arguments)


def ids(count):
    return [int(i) for i in (np.arange(count) * 37 + 11) % 384]


@pytest.mark.parametrize(
    ("tp", "pp", "hosts", "overlap"),
    [(3, 1, "1,2", "auto"), pytest.param(4, 1, "2,2", "none", marks=pytest.mark.slow),
     pytest.param(4, 1, "2,2", "scatter", marks=pytest.mark.slow), pytest.param(2, 2, "3,1", "auto", marks=pytest.mark.slow),
     pytest.param(2, 2, "1,1,2", "auto", marks=pytest.mark.slow)],
)  # fmt: skip
def test_logits_are_those_of_one_host(models, tmp_path, tp, pp, hosts, overlap):
    _, file = models.random("tiny-test", "query_heads=6", "kv_heads=2", "hidden=192", gguf_type="Q8_0")
    job = models.job(file, "--overlap", overlap, *OPTIONS, tp=tp, pp=pp)
    prompts = [{"prompt_ids": ids(count), "force_ids": ids(3)} for count in (1, 5, 60)]
    arguments = (prompts, "--max-tokens", 3, "--ignore-eos")
    one_host = job.generate_with_logits(*arguments)[1]
    several = HostsJob(job, hosts, tmp_path / "hosts").generate_with_logits(*arguments)[1]
    for ours, theirs in zip(several, one_host):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("tp", "pp", "hosts"),
    [(2, 1, "1,1"), pytest.param(4, 1, "2,2", marks=pytest.mark.slow), pytest.param(2, 2, "2,2", marks=pytest.mark.slow),
     pytest.param(3, 1, "1,1,1", marks=pytest.mark.slow)],
)  # fmt: skip
def test_int8_between_hosts_keeps_to_its_error(models, tmp_path, tp, pp, hosts):
    _, file = models.random("tiny-test", "query_heads=6", "kv_heads=2", "hidden=192", gguf_type="F16")
    plain = models.job(file, *OPTIONS, tp=tp, pp=pp)
    int8 = models.job(file, "--wire", "int8", *OPTIONS, tp=tp, pp=pp)
    prompts = [{"prompt_ids": ids(count), "force_ids": ids(3)} for count in (1, 5, 60)]
    arguments = (prompts, "--max-tokens", 3, "--ignore-eos")
    exact = plain.generate_with_logits(*arguments)[1]
    # Within a host nothing is encoded.
    for ours, theirs in zip(int8.generate_with_logits(*arguments)[1], exact):
        np.testing.assert_array_equal(ours, theirs)
    several = HostsJob(int8, hosts, tmp_path / "hosts").generate_with_logits(*arguments)[1]
    for ours, theirs in zip(several, exact):
        # A value errs by 0.4 % of the largest of its group each time; an error of that size in the rows before the head
        # comes out as large beside the logits.
        assert 0 < np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()
    shown = llmir.run([llmir.program("llmir-inspect"), "show", int8.plan]).check().stdout
    assert "int8 between hosts: a value errs by at most 0.004 of the largest of its 32" in shown


def test_int8_between_hosts_is_not_reproducible(models):
    folder, file = models.random("tiny-test", gguf_type="Q8_0")
    refused = llmir.run([llmir.program("llmir-plan"), file, "-o", folder / "p.fb", "--tp", 2, "--wire", "int8", "--reproducible"])
    assert refused.status == 1 and "--reproducible" in refused.stderr, refused


def test_the_report_names_hosts_and_channel(models, tmp_path):
    _, file = models.random("tiny-test", gguf_type="Q8_0")
    job = HostsJob(models.job(file, *OPTIONS, tp=3), "2,1", tmp_path / "hosts")
    job.generate([{"prompt_ids": ids(5)}], "--max-tokens", 2, "--ignore-eos", "--report", tmp_path / "report.json")
    ranks = json.loads((tmp_path / "report.json").read_text())["ranks"]
    hosts = [rank["host"] for rank in ranks]
    assert hosts[0] == hosts[1] != hosts[2]
    assert {rank["channel"] for rank in ranks} == {"hierarchical"}


def namespaces():
    return {line.split()[0] for line in llmir.run(["ip", "netns", "list"]).check().stdout.splitlines() if line}


def test_hosts_go_away_when_the_script_is_interrupted():
    script = subprocess.Popen([HOSTS, "1,1", "--", "sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    made = f"llmir{script.pid}-2"
    deadline = time.monotonic() + 20
    while made not in namespaces() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert made in namespaces()
    script.send_signal(signal.SIGTERM)
    assert script.wait(timeout=20) == 143
    assert not {name for name in namespaces() if re.match(rf"llmir{script.pid}-", name)}


def test_without_exchange_measures_and_gives_no_answers(models, tmp_path):
    _, file = models.random("tiny-test", gguf_type="Q8_0")
    job = models.job(file, *OPTIONS, tp=2)
    prompts = llmir.write_jsonl(tmp_path / "prompts.jsonl", [{"prompt_ids": ids(40)}])
    report = tmp_path / "report.json"
    job.run("--prompts", prompts, "--without-exchange", "--report", report, "--max-tokens", 2, "--ignore-eos").check()
    written = json.loads(report.read_text())
    assert written["without_exchange"] is True
    assert {rank["channel"] for rank in written["ranks"]} == {"silent"}
    refused = job.run("--prompts", prompts, "--without-exchange", "--report", report, "--output", tmp_path / "output.jsonl")
    assert refused.status != 0
    assert "neither --output nor --logits" in refused.stderr


@pytest.mark.slow
def test_overlap_is_measured_on_a_link_of_a_given_rate(tmp_path):
    out = tmp_path / "overlap.json"
    llmir.run([llmir.REPOSITORY / "perf" / "overlap.py", "--build", llmir.BUILD, "--model", "tiny-test", "--weights", "q8_0",
               "--tokens", 128, "--rates", "100mbit", "--runs", 1, "-o", out]).check()  # fmt: skip
    (link,) = json.loads(out.read_text())["links"]
    seconds = link["median_seconds"]
    # The link bounds the plain run: half a sum goes out and half a total per layer's exchange.
    assert link["rate"] == "100mbit"
    assert seconds["plain"] > seconds["none"] > 0
    assert 3.5 < link["int8_cuts_bytes"] < 3.8
    assert link["hidden_share"] == pytest.approx(1 - (seconds["overlap"] - seconds["none"]) / (seconds["plain"] - seconds["none"]))
