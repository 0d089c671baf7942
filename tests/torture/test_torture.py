"""The promises of survival, a few times each; `python -m tests.torture` tries them a hundred times."""

import random
from types import SimpleNamespace

import pytest

from tests.torture import __main__ as torture
from tests.torture import kills
from tests.torture.__main__ import run_trials
from tests.torture.harms import HARMS, harm


@pytest.mark.parametrize(
    "trial, times", [("kill", 2), ("signal", 1), ("disk", 1), ("second", 1), ("nan", 4), ("large", 1)]
)
def test_survives(trial, times, monkeypatch):
    monkeypatch.setattr(kills, "SECONDS_TO_STOP", 20)  # other tests may keep the machine busy
    if trial == "kill":
        monkeypatch.delenv("XLA_FLAGS", raising=False)  # the code that users run: see `conftest.py`
    (result,) = run_trials([trial], times, seed=0)
    assert result.failures == []
    if trial == "disk" and not result.tried:
        pytest.skip(result.remark)
    assert result.tried >= times


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
