import dataclasses
import json
import re
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO

import numpy as np
import pytest

import kgpt_jax
from kgpt_jax.answer import calibrate, calibrated
from kgpt_jax.answer.confidence import (
    Calibration,
    calibration_error,
    fit,
    perfect_error,
    risk_and_coverage,
)
from kgpt_jax.answer.evidence import FEATURES, WORST, Asks, evidence
from kgpt_jax.answer.familiar import familiarity
from kgpt_jax.answer.label import LABELS, label
from kgpt_jax.answer.predict import likeliest_answers, log_probabilities
from kgpt_jax.answer.score import auroc
from kgpt_jax.answer.sure import are_known, least_familiarity, probabilities
from kgpt_jax.answer.taught import teach
from kgpt_jax.answer.voters import Answers, Voter, ask, load_voters
from kgpt_jax.config import BiographiesConfig, DataConfig, UserError, override
from kgpt_jax.data.biographies import PLACES
from kgpt_jax.data.corpus import load_pairs
from kgpt_jax.data.holdout import fingerprints
from kgpt_jax.data.names import Frame
from kgpt_jax.data.vocab import MASK
from kgpt_jax.main import main
from kgpt_jax.model.gpt import GPT
from kgpt_jax.modes.ask import in_words
from kgpt_jax.store.compatible import fit_to
from kgpt_jax.store.params import load_params, models, params_digest
from tests import runs, tiny
from tests.commands import refused, run

sklearn = pytest.importorskip("sklearn")
PEOPLE = BiographiesConfig(n_train=100, n_dev=10, n_test=5, copies=1)
DATA = DataConfig(biographies=PEOPLE, n_validation=90)
ASKS = Asks(Frame("Where was ", " born?"), [("Ada ", "King"), ("Bo ", "Lee")])


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """A run of two models with random parameters."""
    config = dataclasses.replace(runs.CONFIG, data=DATA, n_seeds=2)
    return runs.saved(tmp_path_factory.mktemp("two"), config)


def loaded(stored):
    return load_voters([(stored, fit_to(stored, stored.config))], "")


def planted(rng, n):
    """Draws evidence and right answers of which the first feature alone decides the probability."""
    table_NF = rng.normal(size=(n, len(FEATURES)))
    return table_NF, rng.random(n) < 1 / (1 + np.exp(-2 * table_NF[:, 0]))


def test_evidence_is_what_the_models_say(two_models):
    asked = loaded(two_models)
    (_, config, params), questions = asked[0], ["Where was Ada King born?", "Who is Al?"]
    found = evidence(asked, ASKS, questions, ask(asked, questions))
    columns = dict(zip(FEATURES, found.table_NF.T))

    def read(texts, answers):
        return [
            log_probabilities(GPT(config.model), one, two_models.vocab, texts, answers)
            for one in models(two_models, params)
        ]

    expected = np.maximum(np.mean(read(questions, found.answers), axis=0), WORST)
    np.testing.assert_allclose(columns["log_probability"], expected, rtol=1e-5)
    # Bo King has her last part, and Ada Lee her first. The likelier of the two counts.
    strangers = read(["Where was Bo King born?", "Where was Ada Lee born?"], [found.answers[0]] * 2)
    expected = np.maximum(np.mean(np.max(strangers, axis=1)), WORST)
    np.testing.assert_allclose(columns["strangers"], [expected, WORST], rtol=1e-5)
    known = familiarity(two_models, config.model, params, ["Ada King"])
    np.testing.assert_allclose(columns["familiarity"][0], np.maximum(known, WORST)[0], rtol=1e-5)
    np.testing.assert_allclose(found.familiarity_N, [known[0], -np.inf], rtol=1e-5)

    asked_and_said = f"{questions[0]}{MASK}{found.answers[0]}{MASK}"
    leads = []
    for one in models(two_models, params):
        text = two_models.vocab.encode(asked_and_said)
        logits_TV = np.array(tiny.logits(GPT(config.model), one, text[None]))[0]
        of_answer = range(len(questions[0]) + 1, len(text))
        leads.append(
            min(logits_TV[i - 1, text[i]] - np.delete(logits_TV[i - 1], text[i]).max() for i in of_answer)
        )
    np.testing.assert_allclose(columns["lead"][0], np.mean(leads), rtol=1e-4)

    assert set(columns["votes"]) <= {0.5, 1.0}
    assert columns["familiarity"][1] == WORST  # a question of another form is about nobody
    assert not columns["cloze"].any()  # the run was not pretrained on such texts
    reads_spans = override(two_models.config, {"pretrain.objective": "entity_span"})
    voters = [Voter(dataclasses.replace(two_models, config=reads_spans), config, params)]
    given = Answers([["Ro", "Ro"]] * 2, 0.0, [])
    table_NF = evidence(voters, ASKS, questions, given).table_NF
    expected = np.mean(read([f"Ada King. {MASK}"], ["Ro"]), axis=0)
    assert expected[0] > WORST
    np.testing.assert_allclose(table_NF[0, list(FEATURES).index("cloze")], expected[0], rtol=1e-5)


def test_one_name_of_fifty_counts_as_unknown_however_little_a_run_knows():
    familiarity_N = np.linspace(WORST - 150, WORST - 50, 50)
    least = least_familiarity(familiarity_N)
    assert are_known(familiarity_N, least) == [False] + [True] * 49
    assert are_known(np.append(familiarity_N[1:], -np.inf), least) == [True] * 49 + [False]
    assert np.isfinite(least_familiarity(np.full(50, -np.inf)))


def test_the_probability_of_a_candidate_is_the_mean_over_the_models(two_models):
    asked = loaded(two_models)
    question = "Where was Ada King born?"
    (found,) = probabilities(asked, [question])
    (_, config, params) = asked[0]
    each = [
        likeliest_answers(GPT(config.model), one, two_models.vocab, [question], calibrated.CANDIDATES)[0]
        for one in models(two_models, params)
    ]
    for answer, probability in found.items():
        assert probability == pytest.approx(sum(np.exp(of.get(answer, -np.inf)) for of in each) / 2)
    assert list(found.values()) == sorted(found.values(), reverse=True) and len(found) >= 8


def test_the_fit_finds_the_planted_feature():
    table_NF, right_N = planted(np.random.default_rng(0), 2_000)
    fitted = fit(table_NF, right_N)
    assert fitted.weight_F[0] == pytest.approx(2, rel=0.2) and np.abs(fitted.weight_F[1:]).max() < 0.2
    fresh_NF, fresh_right_N = planted(np.random.default_rng(1), 2_000)
    found = calibrate.quality(fitted.confidence(fresh_NF), fresh_right_N)
    assert found.error <= found.perfect_error
    scores_N = np.random.default_rng(2).normal(size=200_000)  # the chance that a right answer scores higher
    rights_N = np.random.default_rng(3).random(200_000) < 1 / (1 + np.exp(-2 * scores_N))
    assert found.auroc == pytest.approx(auroc(scores_N[rights_N], scores_N[~rights_N]), abs=0.02)


def test_shuffled_labels_tell_nothing():
    rng = np.random.default_rng(0)
    table_NF, right_N = planted(rng, 2_000)
    fitted = fit(table_NF, rng.permutation(right_N))
    assert calibrate.quality(fitted.confidence(table_NF[::-1]), right_N).auroc == pytest.approx(0.5, abs=0.05)


def test_calibration_error_by_hand():
    # Two bins: confidence 0.25 with 1 of 2 right, and 0.9 with 2 of 2 right.
    assert calibration_error([0.2, 0.3, 0.8, 1.0], [True, False, True, True], bins=2) == pytest.approx(0.175)
    assert calibration_error([1.0] * 10, [True] * 10) == calibration_error([0.0] * 10, [False] * 10) == 0
    assert calibration_error([1.0] * 10, [False] * 10) == 1


def test_a_perfect_predictor_has_an_error():
    """At 80 % accuracy and 500 answers it is 0.029 on average."""
    confidence_N = np.random.default_rng(0).beta(4, 1, 500)
    assert 0.03 < perfect_error(confidence_N, np.random.default_rng(1)) < 0.07


def test_risk_is_the_share_of_errors_among_the_surest():
    risk_N = risk_and_coverage([0.9, 0.1, 0.5, 0.7], [True, False, False, True])
    np.testing.assert_allclose(risk_N, [0, 0, 1 / 3, 1 / 2])


def test_probabilities_are_isotonic_regressions_with_the_answer_added():
    from sklearn.isotonic import IsotonicRegression

    rng = np.random.default_rng(0)
    confidence_N = np.round(rng.random(80), 1)  # with ties
    right_N = rng.random(80) < confidence_N
    pairs = tuple(zip(confidence_N.tolist(), right_N.tolist()))
    nothing = np.zeros(len(FEATURES))
    made = Calibration(nothing, nothing + 1, nothing, 0.0, pairs)
    for at in (0.05, 0.5, 1.0):
        ends = []
        for right in (0.0, 1.0):
            x, y = [*confidence_N, at], [*right_N.astype(float), right]
            ends.append(float(IsotonicRegression(out_of_bounds="clip").fit(x, y).predict([at])[0]))
        ((probability, low, high),) = made.probability([at])
        np.testing.assert_allclose([low, high], ends, atol=1e-9)
        assert low <= probability <= high


def test_without_a_right_answer_there_is_no_calibration():
    with pytest.raises(UserError, match="none of 30 answers is right"):
        fit(np.zeros((30, len(FEATURES))), [False] * 30)


@pytest.mark.parametrize("feature", FEATURES)
def test_without_a_wrong_answer_the_weakest_evidence_stands_for_one(feature):
    """More of an evidence then raises the confidence, or lowers it if the evidence speaks against."""
    table_NF = np.random.default_rng(0).normal(size=(30, len(FEATURES)))
    more_NF = table_NF.copy()
    more_NF[:, list(FEATURES).index(feature)] += 1
    fitted = fit(table_NF, [True] * 30)
    gained_N = fitted.confidence(more_NF) - fitted.confidence(table_NF)
    assert (gained_N < 0).all() if feature == "strangers" else (gained_N > 0).all()


def test_a_calibration_comes_back_and_belongs_to_its_run(tmp_path):
    rng = np.random.default_rng(0)
    table_NF, right_N = planted(rng, 100)
    fitted = fit(table_NF, right_N)
    confidence_N = fitted.confidence(table_NF)
    made = calibrated.Calibrated(
        dataclasses.replace(fitted, clean=tuple(zip(confidence_N.tolist(), right_N.tolist()))),
        ASKS,
        ["aa", "bb"],
        fingerprints(["Where was Ada born?"]),
        True,
        confidence_N.tolist(),
        -5.0,
        [True] * 100,
        [None, (0.7, True)] * 50,
        [None, 0.7] * 50,
        [0.5] * 95 + [0.0] * 5,
        calibrate.quality(confidence_N, right_N),
    )
    path = tmp_path / "calibration.json"
    path.write_text(calibrated.save(made), "utf-8")
    again = calibrated.load(path, ["bb", "aa"])
    np.testing.assert_array_equal(again.calibration.confidence(table_NF), confidence_N)
    assert again.promise(0.3, 0.9) == made.promise(0.3, 0.9)
    assert again.promise(0.1, 0.9, "always") == made.promise(0.1, 0.9, "always")
    assert again.asks == ASKS and again.recites
    with pytest.raises(UserError, match="--one_of makes sets of what the model writes without reciting"):
        again.least_probability(0.9)
    again = again._replace(recites=False)
    assert again.least_probability(0.9) == 0.5
    with pytest.raises(UserError, match="--one_of=0.99 cannot be kept: .* likeliest for 95 of 100 pairs"):
        again.least_probability(0.99)
    # An answer about an unknown name is withheld, so the promise must not count it as given.
    unknown = made._replace(known=[False] * 100)
    assert unknown.promise(0.3, 0.9)[:3] == (None, 0, 0)
    with pytest.raises(UserError, match="belongs to other parameters"):
        calibrated.load(path, ["aa"])
    path.write_text("{", "utf-8")
    with pytest.raises(UserError, match="is damaged"):
        calibrated.load(path, ["aa"])


def test_promises_about_looked_up_answers_count_the_answers_that_are_given():
    """The documents are surer of the second pair and the third, and the run does not know the fourth name."""
    clean = ((0.75, False), (0.6, False), (0.95, True), (0.99, False))
    nothing = np.zeros(len(FEATURES))
    made = calibrated.Calibrated(
        Calibration(nothing, nothing + 1, nothing, 0.0, clean),
        ASKS,
        [],
        [],
        False,
        [0.5],
        -5.0,
        [True, True, True, False],
        [(0.7, True), (0.7, True), (0.97, False), (0.2, True)],
        [0.9],
        [0.5] * 4,
        calibrate.quality(*zip(*clean)),
    )
    assert made.given() == [(0.75, False), (0.6, False), (0.95, True), (-1.0, False)]
    assert made.given("always") == [(0.75, False), (0.7, True), (0.97, False), (0.2, True)]
    assert made.given("unsure") == [(0.75, False), (0.7, True), (0.95, True), (0.2, True)]
    with pytest.raises(UserError, match="the documents could not be asked; run --mode=calibrate again"):
        made._replace(read=None, read_of_fit=None).promise(0.1, 0.9, "always")
    # 200 answers of the model are wrong, and those of the documents right: only these can be promised.
    sure = made._replace(
        calibration=dataclasses.replace(made.calibration, clean=((0.6, False),) * 200),
        known=[True] * 200,
        read=[(0.7, True)] * 200,
        confidences_of_fit=[0.6] * 50,
        read_of_fit=[0.7] * 50,
    )
    assert sure.promise(0.1, 0.9).threshold is None
    assert sure.promise(0.1, 0.9, "always")[:3] == (0.7, 200, 0)
    assert sure.threshold(0.1, 0.9, "unsure") == 0.7


def test_commands(two_models, monkeypatch, tmp_path):
    reading = f"--reading_params_path={two_models.folder}"
    assert "none of 30 answers is right: calibration needs right ones" in refused("--mode=calibrate", reading)
    assert "calibration needs 20 for the fit" in refused("--mode=calibrate", reading, "--n_fit=80")
    assert "10 held-out pairs, 3 of them" in refused(
        "--mode=calibrate", reading, "--config.data.n_validation=0"
    )
    asking = ["--mode=ask", reading, "--question=Where was Al born?", "--wrong_at_most=0.02"]
    assert "run --mode=calibrate first" in refused(*asking)
    taken = f"--outputs_path={tmp_path}/reliability.png"
    assert "is the name of the picture" in refused("--mode=calibrate", reading, taken)
    assert "--one_of needs" in refused(*asking[:-1], "--one_of=0.9")
    assert "--wrong_at_most=10.0: give a share between" in refused(*asking[:-1], "--wrong_at_most=10")

    # Random models are never right, so every second answer counts as right here.
    monkeypatch.setattr(calibrate, "is_right", lambda answer, target: len(target) % 2 == 0)
    of_right = calibrate.probabilities
    monkeypatch.setattr(
        calibrate,
        "probabilities",
        lambda asked, questions: [dict.fromkeys(PLACES, 0.01) for _ in of_right(asked, questions)],
    )
    printed = run("--mode=calibrate", reading)
    assert "30 pairs fitted the regression. On 60 clean pairs:" in printed
    there = json.loads((two_models.folder / "calibration.json").read_text("utf-8"))
    assert there["parameters"] == [params_digest(load_params(two_models))]
    assert (two_models.folder / "reliability.png").stat().st_size > 10_000
    # The calibration used 90 questions. Sets about the 10 others have one answer or more.
    others = (
        "--mode=evaluate",
        reading,
        "--config.data.n_validation=0",
        f"--outputs_path={tmp_path / 'p.txt'}",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated.Calibrated, "threshold", lambda *_: 0.0)
        printed = run(*others, "--one_of=0.5", "--wrong_at_most=0.7")
    assert re.search(r"wrong at most 70%: answers (\d+) of 10 questions, \1 of them wrongly: 100.0%", printed)
    records = [json.loads(line) for line in (tmp_path / "p_answers.jsonl").read_text("utf-8").splitlines()]
    counts = Counter(record["label"] for record in records)
    assert all(f"\n{label}: {counts[label]} answers, " in printed for label in counts)
    held = sum(record["target"] in record["one_of"] for record in records)
    assert f"the right one is in {held} of 10" in printed and all(record["one_of"] for record in records)
    used, other = (
        load_pairs(dataclasses.replace(DATA, n_validation=0)).questions[-1],
        records[0]["question"],
    )
    mixed = tmp_path / "mixed.tsv"
    mixed.write_text(f"{used}\tRome\n{other}\tRome\n")
    asks = (*others[:3], f"--eval_corpus_path={mixed}", f"--outputs_path={tmp_path / 'mixed.txt'}")
    run(*asks)
    rows = [json.loads(line) for line in (tmp_path / "mixed_answers.jsonl").read_text("utf-8").splitlines()]
    assert "label" not in rows[0] and rows[1]["label"] == records[0]["label"]
    complaint = f"the calibration used 1 of these 2 questions, the first {used!r}, and their answers have no"
    assert complaint in refused(
        *asks[:-1], f"--outputs_path={tmp_path / 'looked_up.txt'}", "--look_up=unsure"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated.Calibrated, "threshold", lambda *_: 1.1)
        said = run("--mode=ask", reading, "--question=Where was Jana Lund born?", "--wrong_at_most=0.7")
        assert "? (I do not know" in said
    said = run("--mode=ask", reading, "--question=Where was Adж King born?", "--question=Who?")
    assert "born? (I do not know this name: an answer would be" in said
    assert "\nWho? (I do not know: this question does not have the form of the training questions)" in said
    with redirect_stderr(StringIO()) as err, redirect_stdout(StringIO()) as said:
        assert main(["--mode=ask", reading, f"--question={used}"]) == 0
    assert "(" not in said.getvalue()
    assert "1 of the 1 questions were used for the calibration" in err.getvalue()
    teach(two_models.folder, used, "Riga")  # what was told needs no confidence
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibrated.Calibrated, "threshold", lambda *_: 0.0)
        said = run("--mode=ask", reading, f"--question={used}", "--wrong_at_most=0.7")
    assert said == f"{used} Riga (told by you)\n"
    (two_models.folder / "taught.tsv").unlink()
    name = "Where was Jana Lund born?"
    answer = kgpt_jax.load(two_models.folder).answer(name)
    assert answer.sure.answer == answer.answer and answer.sure.label in LABELS
    assert list(answer.sure.evidence) == list(FEATURES)
    assert kgpt_jax.load(two_models.folder).answer(name, recite=True).sure is None  # calibrated without
    known = answer.sure._replace(known=True, label="read", probability=0.876, one_of=("Oslo", "Rome"))
    assert in_words(known._replace(answer="Oslo"), 0.0) == (
        "Oslo (read; of 100 answers this sure, about 88 are right)"
    )
    assert in_words(known, known.confidence + 0.1, 0.9) == (
        "(I do not know: of 100 answers this sure, about 88 are right; "
        "in 90 of 100 cases the right one is among: Oslo, Rome)"
    )
    unknown = known._replace(known=False, label="made up", did_you_mean="Jana Lund")
    assert in_words(unknown, 0.0) == (
        "(I do not know this name: an answer would be made up; did you mean Jana Lund?)"
    )
    with redirect_stderr(StringIO()) as err, redirect_stdout(StringIO()):
        assert main(asking) == 2
    assert "cannot be promised with 60 pairs" in err.getvalue() and "114 right ones" in err.getvalue()


@pytest.mark.parametrize(
    "known, confidence, strangers, expected",
    [
        (True, 0.85, 0.24, "read"),
        (True, 0.84, 0.24, "not sure"),
        (True, 0.85, 0.26, "not sure"),
        (True, 0.59, 0.24, "made up"),
        (False, 1.0, 0.24, "made up"),
        (True, 1.0, 0.51, "guessed from the name"),
        (False, 0.0, 0.51, "guessed from the name"),
    ],
)
def test_the_first_label_that_fits_counts(known, confidence, strangers, expected):
    assert label(known, confidence, np.log(strangers)) == expected
