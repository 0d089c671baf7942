import json

import pytest

from kgpt_jax.exercises.claims_page import TOPICS
from tests.commands import refused, run
from tests.exercises.test_figures import FIELDS

CHEAP = ["same_vectors", "costs"]


def test_tables_figures_and_pictures(tmp_path):
    flags = ["--mode=explore", f"--topics={','.join(CHEAP)}", f"--outputs_path={tmp_path / 'a'}"]
    printed = run(*flags)
    rows = [json.loads(line) for line in (tmp_path / "a" / "figures.jsonl").read_text().splitlines()]
    assert {row["topic"] for row in rows} == set(CHEAP) and all(list(row) == FIELDS for row in rows)
    assert all(row["seed"] == 0 for row in rows)
    for topic in CHEAP:
        assert (tmp_path / "a" / f"{topic}.png").read_bytes().startswith(b"\x89PNG")
    assert "percent_saved" in printed and "self_weight" in printed and " s\n" in printed
    assert printed.endswith(" s)\n") and f"wrote {tmp_path / 'a' / 'figures.jsonl'} and 2 pictures" in printed
    before = (tmp_path / "a" / "figures.jsonl").read_bytes()
    run(*flags)
    assert (tmp_path / "a" / "figures.jsonl").read_bytes() == before


def test_a_workdir_is_where_files_go(tmp_path):
    run("--mode=explore", "--topics=costs", f"--workdir={tmp_path}")
    assert (tmp_path / "explore" / "costs.png").exists()


@pytest.mark.long
def test_another_seed_gives_other_draws(tmp_path):
    run("--mode=explore", "--topics=rope", "--seed=3", f"--outputs_path={tmp_path / '3'}")
    run("--mode=explore", "--topics=rope_relative", f"--outputs_path={tmp_path / '0'}")
    found = {}
    for seed in (0, 3):
        lines = (tmp_path / str(seed) / "figures.jsonl").read_text().splitlines()
        (found[seed],) = [row for row in map(json.loads, lines) if row["quantity"] == "wrong_sign"]
        assert found[seed]["seed"] == seed
    difference = abs(found[0]["value"] - found[3]["value"])
    assert 0 < difference < 4 * (found[0]["standard_error"] + found[3]["standard_error"])


def test_an_unknown_topic_is_one_line(tmp_path):
    complaint = refused("--mode=explore", "--topics=average,ropes", f"--outputs_path={tmp_path}")
    assert f"unknown topic 'ropes'; choose from {', '.join(TOPICS)}" in complaint
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["figures.jsonl", "costs.png"])
def test_a_file_of_others_is_kept(name, tmp_path):
    (tmp_path / name).write_text("mine")
    complaint = refused("--mode=explore", "--topics=costs", f"--outputs_path={tmp_path}")
    assert "this program did not write what it holds" in complaint
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == "mine"
