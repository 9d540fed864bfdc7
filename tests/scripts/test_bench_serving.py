from __future__ import annotations

import re

import pytest

pytest.importorskip("fastapi", reason="the service needs image-retrieval-toolkit[serve], which is not installed")

import bench_serving

pytestmark = pytest.mark.slow


def test_both_servers_answer_every_request(capfd):
    assert bench_serving.main(["--quick"]) == 0
    rows = [line.split() for line in capfd.readouterr().out.splitlines() if re.match(r" +\d+ ", line)]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        *(("1", "naive", "0"), ("1", "service", "0"), ("4", "naive", "0"), ("4", "service", "0"))
    ]
    assert all(float(row[2]) > 0 for row in rows)


def test_the_service_endures_hostile_requests_while_its_index_is_replaced(capfd):
    assert bench_serving.main(["--endure", "400", "--replacements", "3"]) == 0
    out = capfd.readouterr().out
    assert re.search(r"faults +0\n", out)
    assert re.search(r"replaced +3 times, taken up [123] times", out)
    assert "alive      yes" in out
