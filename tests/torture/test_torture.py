"""Runs each trial a few times; `python -m tests.torture` runs each a hundred times."""

import random
from types import SimpleNamespace

import pytest

from tests.torture import __main__ as torture
from tests.torture import kills
from tests.torture.__main__ import run_trials
from tests.torture.harms import HARMS, harm


def survives(trial, times, seed, folder):
    (result,) = run_trials([trial], times, seed, folder)
    assert result.failures == []
    if trial == "disk" and not result.tried:
        pytest.skip(result.remark)
    assert result.tried >= times


@pytest.fixture(scope="module")
def shared_optimized(tmp_path_factory):
    return tmp_path_factory.mktemp("shared_optimized")


@pytest.mark.long
@pytest.mark.parametrize(
    "trial, times",
    [("kill", 1), ("signal", 1), ("damage", 10), ("disk", 2), ("second", 1), ("nan", 3), ("large", 1)],
)
def test_survives_as_users_run_it(trial, times, shared_optimized, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)  # compile with LLVM's optimizations, unlike `conftest.py`
    monkeypatch.setattr(kills, "SECONDS_TO_STOP", 20)  # other tests may keep the machine busy
    survives(trial, times, 0, shared_optimized)


def test_results_go_to_a_local_path_only(monkeypatch, capsys):
    monkeypatch.setattr(
        torture, "FLAGS", SimpleNamespace(trials=["kill"], outputs_path="gs://b/torture.json")
    )
    with pytest.raises(SystemExit, match="2"):
        torture.main(None)
    assert "--outputs_path is 'gs://b/torture.json', which is no local path" in capsys.readouterr().err


def test_a_harm_is_a_harm(tmp_path):
    for how in HARMS:
        path = tmp_path / "file"
        path.write_bytes(b"some content")
        harm(path, how, random.Random(0))
        assert not path.exists() or path.read_bytes() != b"some content"
