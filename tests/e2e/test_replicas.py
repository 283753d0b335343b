"""Several replicas: KV blocks go from one to another, and a replica that is lost costs its blocks and a pause."""

import json
import os
import pathlib
import signal
import subprocess
import time

import llmir
import pytest
from engine_client import CANCEL, SUBMIT, Client
from test_hosts import HOSTS

SHAPE = ("tiny-test", "layers=8", "query_heads=8", "kv_heads=4", "hidden=128", "mlp_columns=520", "vocabulary=520", "context=4096")
OPTIONS = ("--weights", "keep", "--context", 256, "--block-size", 16, "--prefill-chunk", 64)
# One sequence a replica at a time, and room for a long answer.
ONE_EACH = ("--weights", "keep", "--context", 4096, "--block-size", 16, "--prefill-chunk", 64, "--max-batch", 1, "--steps-in-flight", 1)
MPIRUN = ("mpirun", "--oversubscribe", "--bind-to", "none")


def ids(seed, count):
    return [(seed * 101 + i * 37 + i * i % 11) % 520 for i in range(count)]


@pytest.fixture(scope="module")
def model(models):
    return models.random(*SHAPE)[1]


class Served:
    """A job behind a socket, for as long as the `with` lasts. launcher: what comes before llmir-exec."""

    def __init__(self, job, launcher, **environment):
        self.environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", **environment}
        folder = job.new_folder()
        self.path, self.report = folder / "s", folder / "report.json"
        self.command = [*launcher, llmir.program("llmir-exec"), job.plan, "--socket", self.path, "--report", self.report]

    def __enter__(self):
        environment = {**os.environ, **self.environment}
        self.process = subprocess.Popen([str(word) for word in self.command], env=environment, stderr=subprocess.PIPE, text=True)
        self.numbers = 0
        try:
            deadline = time.monotonic() + 60
            while not self.path.exists():
                assert self.process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            self.client = Client(self.path)
            self.driver = self.client.receive()[1]["pid"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def submit(self, **request):
        self.numbers += 1
        self.client.send(SUBMIT, {"id": self.numbers, "request": {"ignore_eos": True, **request}})
        return self.numbers

    def until(self, name, number):
        """The frame of this kind of this request."""
        while True:
            kind, value = self.client.receive()
            assert kind in ("token", "finish"), value
            if (kind, value["id"]) == (name, number):
                return value

    def stop(self):
        """(exit status, standard error) of the job."""
        os.kill(self.driver, signal.SIGINT)
        _, errors = self.process.communicate(timeout=60)
        return self.process.returncode, errors


def fetch_once(served):
    """Ids of two answers to prompts that begin alike: of the second one's replica the other one has the beginning, and is busy."""
    common = ids(1, 96)
    first = served.until("finish", served.submit(prompt_ids=[*common, 5], max_tokens=2))
    busy = served.submit(prompt_ids=[*common, 6], max_tokens=3900)
    served.until("token", busy)
    second = served.until("finish", served.submit(prompt_ids=[*common, 7], max_tokens=12))
    served.client.send(CANCEL, {"id": busy})
    served.until("finish", busy)
    status, errors = served.stop()
    assert status == 0, errors
    return [first["result"]["ids"], second["result"]["ids"]], json.loads(served.report.read_text())["engine"]


def expected(models, model, *options, **layout):
    alone = models.job(model, *options, **layout)
    common = ids(1, 96)
    prompts = [{"prompt_ids": [*common, 5], "max_tokens": 2}, {"prompt_ids": [*common, 7], "max_tokens": 12}]
    return [line["ids"] for line in alone.generate(prompts, "--ignore-eos")]


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 1), pytest.param(1, 2, marks=pytest.mark.slow), pytest.param(3, 1, marks=pytest.mark.slow)])
def test_a_prefix_goes_to_another_replica(models, model, tp, pp):
    job = models.job(model, *ONE_EACH, tp=tp, pp=pp, dp=2)
    with Served(job, [*MPIRUN, "-n", job.ranks]) as served:
        answers, engine = fetch_once(served)
    assert answers == expected(models, model, *ONE_EACH, tp=tp, pp=pp)
    assert (engine["fetches"], engine["failed_fetches"], engine["fetched_tokens"]) == (1, 0, 96), engine
    # K and V of 96 tokens in 32 bits, 8 layers of 4 KV heads, whatever the cut; of three ranks two need the second head.
    assert engine["fetched_bytes"] == 96 * 8 * (5 if tp == 3 else 4) * 2 * (128 // 8) * 4
    assert engine["held_kv_blocks"] == 0


def test_a_prefix_goes_to_a_replica_on_another_host(models, model):
    # In 8 bits: sooner sent than computed, by what is assumed of a link before the first time.
    options = (*ONE_EACH, "--kv-dtype", "int8")
    job = models.job(model, *options, tp=2, pp=1, dp=2)
    with Served(job, [HOSTS, "2,2", "--"]) as served:
        answers, engine = fetch_once(served)
    assert answers == expected(models, model, *options, tp=2, pp=1)
    assert (engine["fetches"], engine["failed_fetches"], engine["fetched_tokens"]) == (1, 0, 96), engine


def kill_rank(served, rank):
    """The rank's process of the job, wherever mpirun has started it."""
    wanted = f"OMPI_COMM_WORLD_RANK={rank}".encode()
    for process in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")
            if not command[0].endswith(b"llmir-exec") or str(served.path).encode() not in command:
                continue
            if wanted in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
                return
        except OSError:  # it has ended
            pass
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.parametrize(("tp", "lost"), [(1, 1), (2, 3)])
def test_a_lost_replica_costs_a_pause(models, model, tp, lost):
    options = (*OPTIONS, "--max-batch", 4)
    prompts = [{"prompt_ids": ids(n % 3, 40 + n), "max_tokens": 60} for n in range(12)]
    alone = [line["ids"] for line in models.job(model, *options, tp=tp, pp=1).generate(prompts, "--ignore-eos")]
    job = models.job(model, *options, tp=tp, pp=1, dp=2)
    with Served(job, [*MPIRUN, "--enable-recovery", "-n", job.ranks]) as served:
        numbers = [served.submit(**prompt) for prompt in prompts]
        ended, tokens = {}, 0
        while len(ended) < len(prompts):
            kind, value = served.client.receive()
            assert kind in ("token", "finish"), value
            if kind == "finish":
                ended[value["id"]] = value["result"]["ids"]
            tokens += kind == "token"
            if tokens == 60:  # all run
                tokens += 1
                kill_rank(served, lost)
        status, errors = served.stop()
    assert [ended[number] for number in numbers] == alone
    assert status == 0, errors
    assert "llmir-exec: warning: UNAVAILABLE: replica 1 is lost; what it ran goes on in 1 other" in errors
    assert json.loads(served.report.read_text())["engine"]["lost_replicas"] == 1


def test_an_owner_that_is_killed_during_a_transfer_costs_the_computation(models, model):
    """A link of 10 Mbit/s, so that the transfer takes a second and more."""
    options = (*ONE_EACH, "--kv-dtype", "int8")
    common = ids(1, 1920)
    alone = models.job(model, *options).generate([{"prompt_ids": [*common, 7], "max_tokens": 12}], "--ignore-eos")
    job = models.job(model, *options, dp=2)
    with Served(job, [HOSTS, "--rate", "10mbit", "1,1", "--"], OMPI_MCA_orte_enable_recovery="1") as served:
        first = served.submit(prompt_ids=ids(5, 20), max_tokens=3900)
        served.until("token", first)
        served.until("finish", served.submit(prompt_ids=[*common, 5], max_tokens=2))
        busy = served.submit(prompt_ids=[*common, 6], max_tokens=2000)
        served.until("token", busy)
        served.client.send(CANCEL, {"id": first})
        served.until("finish", first)
        asked = served.submit(prompt_ids=[*common, 7], max_tokens=12)
        time.sleep(0.4)
        kill_rank(served, 1)
        answer = served.until("finish", asked)
        served.client.send(CANCEL, {"id": busy})
        served.until("finish", busy)
        status, errors = served.stop()
    assert answer["result"]["ids"] == alone[0]["ids"]
    assert status == 0, errors
    assert "a cached prefix is computed again: rank 0: get of" in errors
    engine = json.loads(served.report.read_text())["engine"]
    assert (engine["failed_fetches"], engine["lost_replicas"]) == (1, 1), engine


def perf(script, *options):
    result = llmir.run([llmir.CACHE / "venv" / "bin" / "python", llmir.REPOSITORY / "perf" / script, "--build", llmir.BUILD, *options])
    return json.loads(result.check().stdout)


@pytest.mark.slow
def test_transfers_are_measured(smollm2):
    measured = perf("transfers.py", "--lengths", 256, "--runs", 1, "--rates", "none")
    assert [row["tokens"] for row in measured["first_token"]] == [256]
    assert measured["first_token"][0]["ratio"] < 1
    assert [(row["same_host"], row["sockets"]) for row in measured["rates"]] == [(True, False), (True, True), (False, True)]
    assert all(row["results"]["service"]["gb_per_s"] > 0 for row in measured["rates"])


@pytest.mark.slow
def test_block_sizes_are_compared(models, model, tmp_path):
    measured = perf("kv_memory.py", model, "--requests", 12, "--context", 512, "--runs", 1, "--prompt-mean", 60, "--answer-mean", 40,
                    "--plots", tmp_path)  # fmt: skip
    efficiency = [row["efficiency"] for row in measured["block_sizes"]]
    assert efficiency[0] > 0.9 and efficiency[0] > efficiency[-1]
    assert [row["configuration"] for row in measured["configurations"]][:2] == ["contiguous", "pool"]
    assert (tmp_path / "block_size.svg").is_file() and (tmp_path / "configurations.svg").is_file()
