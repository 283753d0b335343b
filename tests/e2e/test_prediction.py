"""perf/prediction.py and perf/table3.py: what they draw, compute and print."""

import json

import llmir
import prediction
import pytest


def test_configurations_are_the_same_for_a_seed_and_fit_the_cores():
    rows = prediction.draw(20, 32, 2)
    assert rows == prediction.draw(20, 32, 2) != prediction.draw(21, 32, 2)
    fitting = [row for row in rows if not row["oversubscribed"]]
    assert len(fitting) >= 20 and len(fitting) < len(rows)
    for row in fitting:
        assert row["tp"] * row["pp"] * row["threads"] <= 2
    for row in rows:
        assert row["oversubscribed"] == (row["tp"] * row["pp"] * row["threads"] > 2)
    assert {(row["tp"], row["pp"]) for row in fitting} == {(1, 1), (2, 1), (1, 2)}


def test_the_scaled_error_scales_the_prediction_alone():
    pair = {"predicted": 90.0, "measured": 100.0}
    assert prediction.error(pair) == pytest.approx(-0.1)
    assert prediction.error(pair, 1.1) == pytest.approx(-0.01)
    rows = [{"error": {"token": value}} for value in (-0.3, 0.1, 0.2)]
    assert prediction.median_errors(rows) == {"token": 0.2}
    assert prediction.median_errors([]) == {}


def test_table_three_is_called_a_simulation_and_stands_beside_the_paper(tmp_path):
    path = tmp_path / "table3.json"
    done = llmir.run([llmir.REPOSITORY / "perf" / "table3.py", "--build", llmir.BUILD, "--batch", 8, "--json", path]).check()
    assert done.stdout.count("Simulation, not a measurement") == 2
    found = json.loads(path.read_text())
    assert found["what"] == "simulation" and len(found["tables"]) == 2
    for table in found["tables"]:
        assert not table["one_gpu_fits"]
        assert [(row["strategy"], row["gpus"]) for row in table["rows"]] == [
            (strategy, gpus) for strategy in ("tensor", "pipeline", "hybrid") for gpus in (2, 4, 8)
        ]
        for row in table["rows"]:
            assert row["deviation"] == pytest.approx(row["simulated"] / row["paper"] - 1)
            assert 0.9 < row["simulated"] <= row["gpus"] * 1.01
