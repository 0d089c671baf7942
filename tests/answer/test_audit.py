import dataclasses
import json
import math

import jax
import numpy as np
import pytest

from kgpt_jax.answer.audit import MAKERS, _targets, audit, strongest_link
from kgpt_jax.answer.familiar import familiarity
from kgpt_jax.answer.score import auroc
from kgpt_jax.config import BiographiesConfig, UserError, override
from kgpt_jax.data import names
from kgpt_jax.data.names import Frame
from kgpt_jax.model.gpt import GPT
from kgpt_jax.store.compatible import fit_to
from kgpt_jax.store.params import load_params
from tests import runs, tiny
from tests.commands import refused, run

PEOPLE = BiographiesConfig(n_train=20, n_dev=180, n_test=20, copies=1)


@pytest.fixture(scope="module")
def unread(tmp_path_factory):
    """A run with random parameters, which has never read of anybody."""
    data = dataclasses.replace(runs.CONFIG.data, biographies=PEOPLE)
    return runs.saved(tmp_path_factory.mktemp("unread"), dataclasses.replace(runs.CONFIG, data=data))


def test_auroc_counts_pairs():
    rng = np.random.default_rng(0)
    high, low = rng.integers(0, 9, 30), rng.integers(0, 7, 40)
    pairs = [(a > b) + (a == b) / 2 for a in high for b in low]
    assert auroc(high, low) == pytest.approx(np.mean(pairs))
    assert auroc([0.0], [-np.inf, -np.inf]) == 1


def test_familiarity_is_the_last_part_and_the_least_likely_letter_of_the_first(unread):
    config = fit_to(unread, unread.config)
    params = load_params(unread)
    text = unread.vocab.encode("Ada King")
    logits_1TV = tiny.logits(GPT(config.model), params, text[None])
    gain_T = [float(jax.nn.log_softmax(logits_1TV[0, i])[text[i + 1]]) for i in range(7)]
    expected = sum(gain_T[3:]) + min(gain_T[:3])
    found = familiarity(unread, config.model, params, ["Ada King", "Adж King", ""])
    np.testing.assert_allclose(found, [expected, -np.inf, -np.inf], rtol=1e-4)


def test_a_run_that_never_read_of_them_cannot_tell(unread, monkeypatch):
    compared, nearest = [], names.nearest
    monkeypatch.setattr(names, "nearest", lambda made, of: compared.append(len(of)) or nearest(made, of))
    found = audit(unread, unread.config, refuse=0.05)
    assert set(compared) == {220}  # everybody, also those with a training question
    # With 100 names against 200, the standard error of an AUROC of 0.5 is 0.035.
    for kind in ("recombined", "same last part"):
        assert 0.36 < found.kinds[kind].auroc < 0.64, kind
    assert found.kinds["unknown letter"].refused.value == 1
    assert found.groups["all"].answered.total == found.kinds["read of"].n == 100


def test_kinds_without_names_are_left_out(unread, monkeypatch):
    for kind in ("recombined", "same last part"):  # as for names of one part
        monkeypatch.setitem(MAKERS, kind, lambda read, everyone, rng: [])
    found = audit(unread, unread.config, refuse=0.05)
    assert list(found.kinds) == ["read of", "one letter changed", "unknown letter"] and found.link is None


def test_right_answers_are_missing_only_if_nobody_is_to_be_asked(unread):
    nobody = override(unread.config, {"data.biographies.n_dev": 0})
    assert _targets(unread, nobody, Frame("Where was ", " born?")) == []
    with pytest.raises(UserError, match="cannot read nowhere.tsv"):
        _targets(unread, override(nobody, {"data.eval_corpus_path": "nowhere.tsv"}), Frame("", ""))


def test_too_few_people_are_refused(unread):
    with pytest.raises(UserError, match=r"there are 200 people .* to refuse 0.5 % of half of them takes 400"):
        audit(unread, unread.config, refuse=0.005)
    with pytest.raises(UserError, match="refuse is nan: give a share between 0 and 1"):
        audit(unread, unread.config, refuse=math.nan)


def answers(rng, planted):
    """Draws answers about 1,000 names. With `planted`, names from A to M get Rome 10 points more often."""
    places = [f"Place {i}" for i in range(19)] + ["Rome"]
    drawn = []
    for i, letter in enumerate(rng.choice(list("ABCDEFGHIJKLMNOPQRSTUVWXYZ"), 1_000)):
        chosen = planted and letter <= "M" and rng.random() < 0.105
        drawn.append((f"{letter}a Bo{i}", "Rome" if chosen else str(rng.choice(places))))
    return drawn


def test_a_planted_link_is_found_and_others_are_not():
    rng = np.random.default_rng(1)
    planted = [strongest_link(answers(rng, True), rng) for _ in range(20)]
    expected = ("first letter A to M", "Rome")
    assert sum(link.p < 0.05 and (link.group, link.answer) == expected for link in planted) >= 18
    assert np.mean([link.difference for link in planted]) == pytest.approx(0.1, abs=0.02)
    alarms = sum(strongest_link(answers(rng, False), rng).p < 0.05 for _ in range(60))
    assert alarms <= 8  # 5 % are expected; more than 8 of 60 happen once in 250


def test_the_command_prints_tables_and_writes_json_and_a_picture(unread, tmp_path):
    flags = ["--mode=audit", f"--reading_params_path={unread.folder}", f"--outputs_path={tmp_path}"]
    printed = run(*flags, "--refuse=0.05")
    for kind in ("read of", "recombined", "same last part", "one letter changed", "unknown letter"):
        assert f"\n{kind} " in printed
    written = json.loads((tmp_path / "audit.json").read_text("utf-8"))
    assert written["question"] == "Where was ... born?"
    assert len(written["kinds"]["recombined"]["answers"]) == written["kinds"]["recombined"]["n"] >= 190
    assert (tmp_path / "audit.png").stat().st_size > 10_000
    (tmp_path / "audit.json").write_text("mine", "utf-8")
    assert "this program did not write" in refused(*flags)


def test_each_run_has_its_own_audit(unread, tmp_path):
    """Unless the run is the one of the workdir."""
    flags = ["--mode=audit", f"--reading_params_path={unread.folder}", f"--workdir={tmp_path}"]
    run(*flags, "--refuse=0.05")
    assert (unread.folder / "audit" / "audit.json").exists() and not any(tmp_path.iterdir())
