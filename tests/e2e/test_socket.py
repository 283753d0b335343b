"""The engine protocol over a local socket, and perf/workload.py on it."""

import json
import os
import signal
import subprocess
import sys
import time

import llmir
import numpy as np
import pytest
from engine_client import CANCEL, STATISTICS, SUBMIT, Client

OPTIONS = ("--context", 192, "--max-batch", 4, "--block-size", 16, "--prefill-chunk", 24, "--weights", "f32")


def ids(seed, count):
    return [int(i) for i in np.random.default_rng(seed).integers(3, 384, count)]


class Server:
    def __init__(self, job, *options):
        self.path = job.new_folder() / "s"
        command = ["mpirun", "--oversubscribe", "--bind-to", "none", "-n", job.ranks, llmir.program("llmir-exec"), job.plan,
                   "--socket", self.path, *options]  # fmt: skip
        environment = {**os.environ, "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        self.process = subprocess.Popen([str(word) for word in command], env=environment, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while not self.path.exists():
            assert self.process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        # Of mpirun's job the first rank: mpirun itself would kill it.
        self.pid = Client(self.path).receive()[1]["pid"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            os.kill(self.pid, signal.SIGINT)
        try:
            self.process.wait(60)
        finally:
            self.process.kill()
        assert self.process.returncode == 0
        assert not self.path.exists()


@pytest.fixture(scope="module", params=[{}, {"tp": 2}], ids=str)
def job(request, models):
    return models.job(models.random("tiny-test")[0], *OPTIONS, **request.param)


@pytest.mark.sanitizer
def test_tokens_come_as_events_and_are_those_of_a_file(job):
    prompts = [{"prompt_ids": ids(i, 20 + 9 * i), "max_tokens": 15, "temperature": 0.9, "seed": i, "ignore_eos": True} for i in range(6)]
    expected = [line["ids"] for line in job.generate(prompts)]
    with Server(job) as server:
        client = Client(server.path)
        assert client.receive()[0] == "hello"
        for i, prompt in enumerate(prompts):
            client.send(SUBMIT, {"id": i, "request": prompt})
        tokens = {i: [] for i in range(6)}
        finished = {}
        while len(finished) < 6:
            name, value = client.receive()
            if name == "token":
                assert value["index"] == len(tokens[value["id"]])
                tokens[value["id"]].append(value["token"])
            else:
                assert name == "finish"
                finished[value["id"]] = value["result"]["ids"]
        assert [tokens[i] for i in range(6)] == expected
        assert [finished[i] for i in range(6)] == expected


def test_what_is_cancelled_or_left_behind_ends_and_gives_its_blocks_back(job):
    long = {"prompt_ids": ids(1, 20), "max_tokens": 170, "ignore_eos": True}
    with Server(job) as server:
        client, other = Client(server.path), Client(server.path)
        client.send(SUBMIT, {"id": 7, "request": long})
        other.send(SUBMIT, {"id": 7, "request": long})
        client.until("token")
        client.send(CANCEL, {"id": 7})
        name, value = client.until("finish")[-1]
        assert value["result"]["finish_reason"] == "cancelled" and len(value["result"]["ids"]) < 170
        other.socket.close()
        for _ in range(100):
            client.send(STATISTICS, {})
            statistics = client.until("statistics")[-1][1]
            if statistics["held_kv_blocks"] == 0:
                break
            time.sleep(0.05)
        assert statistics["held_kv_blocks"] == 0


def test_wrong_requests_are_refused_and_wrong_frames_end_the_connection(job):
    with Server(job, "--max-waiting", 1) as server:
        client = Client(server.path)
        client.receive()
        client.send(SUBMIT, {"id": 1, "request": {"prompt_ids": ids(1, 193)}})
        name, value = client.receive()
        assert name == "refused" and value["id"] == 1 and "context" in value["message"]
        client.send(SUBMIT, {"id": 2, "request": {"prompt_ids": [5], "max_tokens": 1}})
        assert client.until("finish")[-1][1]["id"] == 2
        for i in range(12):
            client.send(SUBMIT, {"id": 10 + i, "request": {"prompt_ids": [5], "max_tokens": 100, "ignore_eos": True}})
        frames = []
        while sum(name in ("finish", "refused") for name, _ in frames) < 12:
            frames.append(client.receive())
        refused = [value for name, value in frames if name == "refused"]
        assert refused and all("--max-waiting" in value["message"] for value in refused)
        client.send(SUBMIT, {"id": 30, "request": {}}, version=9)
        name, value = client.receive()
        assert name == "refused" and "version 9" in value["message"]
        with pytest.raises(EOFError):
            client.receive()


def test_a_signal_lets_answers_end_and_a_second_server_is_refused(job):
    with Server(job) as server:
        result = job.run("--socket", server.path)
        assert result.status != 0 and "a server answers" in result.stderr
        client = Client(server.path)
        client.send(SUBMIT, {"id": 1, "request": {"prompt_ids": ids(1, 20), "max_tokens": 150, "ignore_eos": True}})
        client.until("token")
        os.kill(server.pid, signal.SIGINT)
        assert len(client.until("finish")[-1][1]["result"]["ids"]) == 150


@pytest.mark.parametrize("options", [(), ("--swap-blocks", 30, "--speculate", 2)], ids=["", "swap-speculate"])
def test_a_workload_gets_the_answers_that_its_requests_get_alone(job, options):
    result = job.new_folder() / "workload.json"
    command = [sys.executable, llmir.REPOSITORY / "perf" / "workload.py", job.plan, "--check-alone", "--requests", 60, "--seed", 3,
               "--rate", 0, "--prompt-mean", 40, "--answer-mean", 40, "--system", 40, "--build", llmir.BUILD, "--json", result,
               "--", *options]  # fmt: skip
    llmir.run(command).check()
    values = json.loads(result.read_text())
    assert values["load"]["requests"] == 60 and values["load"]["refused"] == 0
    assert values["load"]["leaked_blocks"] == 0
    assert values["load"]["engine"]["reused_prompt_tokens"] > 0
    assert values["alone"]["same"] + values["alone"]["close"] == 60
