"""The plan verifier against plans whose communication was changed (tests/mutants/mutants.py)."""

import json
import random
import sys

import pytest

import llmir

SCRIPT = llmir.REPOSITORY / "tests" / "mutants" / "mutants.py"
sys.path.insert(0, str(SCRIPT.parent))
import mutants  # noqa: E402 (found through the line above)


@pytest.mark.parametrize("count", [25, pytest.param(500, marks=pytest.mark.slow)])
def test_mutants_are_refused_with_ranks_and_steps_or_answer_the_same(count, tmp_path):
    output = tmp_path / "mutants.json"
    # A seed each: the longer run isn't the shorter one and more.
    command = [sys.executable, SCRIPT, "--mutants", count, "--seed", count, "--json", output]
    done = llmir.run(command, environment={"LLMIR_TEST_BUILD": str(llmir.BUILD)})
    assert done.status == 0, done.stderr[-4000:]
    result = json.loads(output.read_text())
    assert result["mutants"] == count and result["failed"] == 0 and result["plans_refused"] == 0
    assert result["refused"] > 0 and result["refused"] + result["harmless"] == count
    assert all(r["named"]["ranks"] >= 1 and r["named"]["steps"] >= 1 for r in result["results"] if r["outcome"] == "refused")
    if count >= 500:
        # Every kind of change came, ranks of all numbers were planned for, and some changes do no harm.
        assert {r["kind"] for r in result["results"]} == {kind for kinds in mutants.KINDS.values() for kind in kinds}
        assert {r["plan"]["ranks"] for r in result["results"]} == set(range(1, mutants.MOST_RANKS + 1))
        assert result["harmless"] > 0


def test_a_mutant_with_other_answers_is_noticed(tmp_path):
    case = mutants.Case(random.Random(1), 2, tmp_path / "good")
    assert not case.refusal
    assert case.runs_like_the_original(case.plan, tmp_path / "same") == ""
    other = llmir.plan(case.folder / "model.yaml", tmp_path / "other.fb", *case.options, "--attention", "flash,window=2")
    assert "answers are others" in case.runs_like_the_original(other, tmp_path / "other")
    one = llmir.plan(case.folder / "model.yaml", tmp_path / "one.fb", "--context", 128)
    assert "doesn't run to its end" in case.runs_like_the_original(one, tmp_path / "one")


def test_ranks_and_steps_that_a_refusal_names_are_counted():
    text = 'rank 0 at stages[0].steps[3] (send "send") waits for rank 12, between ranks 0, 1, 2'
    assert mutants.named(text) == ({"0", "1", "2", "12"}, {"stages[0].steps[3]"})
    assert mutants.named("the checksum is wrong") == (set(), set())
