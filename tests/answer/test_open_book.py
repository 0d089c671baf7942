import dataclasses
import json
from collections import Counter

import numpy as np
import pytest

import kgpt_jax
from benchmarks import other_data, reading
from kgpt_jax.answer import reader
from kgpt_jax.answer.hybrid import look_up
from kgpt_jax.answer.open_book import open_book
from kgpt_jax.answer.record import Sure
from kgpt_jax.answer.taught import taught
from kgpt_jax.answer.taught import teach as tell
from kgpt_jax.config import BiographiesConfig, DataConfig, UserError
from kgpt_jax.data import corpus
from kgpt_jax.data.lookup import Found
from tests import runs
from tests.commands import refused, run

NOTHING = Counter()


def test_candidates_are_runs_of_words_with_their_places():
    line = "Bo Lee. Born in Ada, Oklahoma, Lee sang."
    found = reader.candidates([line, "In Rome."], "Bo Lee", NOTHING)
    assert {"Ada", "Ada, Oklahoma", "Bo", "Born in Ada", "sang", "Rome", "In Rome"} < set(found.texts)
    assert not {",", "Oklahoma,", "sang."} & set(found.texts)
    for text, (row, start, end) in zip(found.texts, found.spans):
        assert [line, "In Rome."][row][start:end] == text
    assert max(len(text.replace(",", " ,").split()) for text in found.texts) == reader.MAX_WORDS
    assert "Leeds" in reader.candidates(["She left Leeds's heart."], "Bo Lee", NOTHING).texts


@pytest.mark.parametrize(
    "line, answer, other",
    [
        ("Born in Rome. She lives in Oslo.", "Rome", "Rome."),
        ("Born in Rome. 3 May 1914 is her birthday.", "Rome", "Rome."),
        ("Born in Rome.", "Rome", "Rome."),
        ("Born in Washington, D.C. She lives in Oslo.", "Washington, D.C.", "Washington, D.C"),
        ("Born in Washington, D.C.", "Washington, D.C.", "Washington, D.C"),
        ("Born at Acme Inc. in Oslo.", "Acme Inc.", "Acme Inc"),
        ("Born at Acme Inc., Oslo.", "Acme Inc.", "Acme Inc"),
        ('"Born in Rome." Nothing else is known.', "Rome", "Rome."),
        ("Born in Rome. (Her mother lived there.)", "Rome", "Rome."),
        ("Born in Rome.[1]", "Rome", "Rome."),
        ("Born in St. Louis.", "St. Louis", "Louis."),
        ("Born in Malmo\u0308 .", "Malmo\u0308", "Malmo"),
        ("वह दिल्ली में जन्मी।", "दिल्ली", "द"),
    ],
)
def test_a_candidate_ends_where_its_last_word_does(line, answer, other):
    texts = reader.candidates([line], "Bo Lee", NOTHING).texts
    assert answer in texts and other not in texts


def test_years_look_alike():
    def features(line):
        return reader.candidates([line], "Bo Lee", NOTHING).features

    np.testing.assert_array_equal(features("Lee (5 May 1914 Rome)"), features("Lee (3 May 1836 Rome)"))
    assert (features("Lee (5 May 1914 Rome)") != features("Lee (15 May 1914 Rome)")).any()


def test_the_answer_to_a_training_question_does_not_count_for_itself():
    lines = ["Bo Lee. Born in Rome."]
    once, twice = Counter(["Rome"]), Counter(["Rome", "Rome"])

    def features(answers, own=None):
        return reader.candidates(lines, "Bo Lee", answers, own).features

    np.testing.assert_array_equal(features(once, "Rome"), features(NOTHING))
    np.testing.assert_array_equal(features(twice, "Rome"), features(once))
    assert (features(once) != features(NOTHING)).any()


def test_probabilities_add_up_and_the_span_says_the_answer():
    asked = [([f"{name}. Born in {place}."], name, place) for name, place in [("Al", "Oslo"), ("Cy", "Bern")]]
    asked.append(([""], "Nobody", "Rome"))  # a line may be empty
    lines = ["Bo Lee. She met Ann in Rome.", "Bo Lee. Born in Rome."]
    found = reader.train(asked).read(lines, "Bo Lee")
    assert next(iter(found)) == "Rome"
    assert 0.5 < sum(each.probability for each in found.values()) < 1  # the rest: it is not there
    assert reader.train(asked).read([""], "Bo Lee") == {}
    assert found["Rome"].span == (1, 16, 20)  # where it follows "Born in"


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """The data of a corpus about machine parts, in files."""
    folder = tmp_path_factory.mktemp("parts")
    documents, pairs = other_data.make(np.random.default_rng(0))
    contents = {
        "documents": documents,
        "pairs": map("\t".join, pairs[:60]),
        "asked": map("\t".join, pairs[60:]),
    }
    for name, lines in contents.items():
        (folder / name).write_text("\n".join(lines), "utf-8")
    return DataConfig(
        pretrain_corpus_path=str(folder / "documents"),
        finetune_corpus_path=str(folder / "pairs"),
        eval_corpus_path=str(folder / "asked"),
    )


def test_questions_about_people_and_about_metals_are_answered_with_their_line(parts):
    people = DataConfig(biographies=BiographiesConfig(n_train=60, n_dev=60, n_test=0, n_facts=1))
    for data in (people, parts):
        book, table = open_book(data), corpus.load_questions(data)
        found = [book.answer(question) for question in table.questions]
        for each in found:
            line, text, start, end = each.source
            assert book.documents[line - 1] == text and text[start:end] == each.answer and each.name in text
        assert np.mean([each.answer == right for each, right in zip(found, table.answers)]) >= 0.95


def test_questions_without_a_line_get_no_answer(parts):
    book = open_book(parts)
    assert book.answer("Who is there?") is None
    pytest.importorskip("rapidfuzz")
    assert book.answer(book.where.question("zzzz")) is None


def test_held_out_questions_are_read_by_readers_that_never_saw_them():
    asked = [
        ([f"N{i}. From {'ABCDE'[i % 5]}x to {'ABCDE'[i % 3]}y."], f"N{i}", f"{'ABCDE'[i % 5]}x")
        for i in range(30)
    ]
    assert [answer for answer, _ in reading.out_of_fold(asked, np.random.default_rng(0))] == [
        answer for *_, answer in asked
    ]


PEOPLE = DataConfig(biographies=BiographiesConfig(n_train=40, n_dev=10, n_test=0, n_facts=1))


def sure(known=True, probability=0.5):
    return Sure("Rome", "not sure", known, probability, probability, (0.0, 1.0), "", {})


def test_the_more_probable_of_the_two_answers_is_given(monkeypatch):
    book = open_book(PEOPLE)
    question, right = corpus.load_questions(PEOPLE).pairs[0]

    def told(how, *how_sure):
        return look_up(book, how, [question], ["Rome"], how_sure or [None])[0]

    found = told("always")
    assert (found.answer, found.label, found.differ) == (right, "looked up", right != "Rome")
    assert told("always", sure(probability=0.9)).answer == right
    assert told("unsure", sure(probability=0.7)).answer == right
    assert told("unsure", sure(known=False, probability=0.99)).answer == right
    kept = told("unsure", sure(probability=0.85))
    assert (kept.answer, kept.probability, kept.label, kept.looked_up) == ("Rome", 0.85, "not sure", None)
    assert told("always").asked and not kept.asked
    # A line about somebody with a similar name is told, but gives no answer.
    monkeypatch.setattr(book.lookup, "find", lambda name: Found([0], "Somebody", "similar name"))
    other = told("always", sure())
    assert (other.answer, other.looked_up.name) == ("Rome", "Somebody")


def test_a_command_that_looks_up_is_right_whatever_the_model_says(tmp_path, monkeypatch):
    stored = runs.saved(tmp_path / "run", dataclasses.replace(runs.CONFIG, data=PEOPLE))
    reading = f"--reading_params_path={stored.folder}"
    printed = run("--mode=evaluate", reading, "--look_up=always")
    assert "Correct: 10.0 out of 10.0" in printed and "from the documents: 10 answers" in printed
    written = stored.folder / "answers_looked_up_always.jsonl"
    records = [json.loads(line) for line in written.read_text("utf-8").splitlines()]
    assert records[0]["label"] == "looked up" and records[0]["looked_up"]["source"]["line"] > 0
    question, right = corpus.load_questions(PEOPLE).pairs[0]
    said = run("--mode=ask", reading, "--look_up=always", f"--question={question}")
    assert said.startswith(f"{question} {right} (looked up in line ") and f"[{right}]" in said
    assert "the model says" in said
    answer = kgpt_jax.load(stored.folder).answer(question, look_up="always")
    assert answer.answer == right and answer.told.looked_up.source.text.count(right) == 1
    assert "needs" in refused("--mode=ask", reading, "--look_up=unsure", f"--question={question}")
    with pytest.raises(UserError, match="This run is not calibrated. Run --mode=calibrate first"):
        kgpt_jax.load(stored.folder).answer(question, look_up="unsure")
    flags = ("--one_of=0.9", "--look_up=always", f"--question={question}")
    (stored.folder / "calibration.json").write_text("{}", "utf-8")
    assert "leave out --one_of or --look_up" in refused("--mode=ask", reading, *flags)


def test_what_was_told_is_said(tmp_path):
    stored = runs.saved(tmp_path / "run", dataclasses.replace(runs.CONFIG, data=PEOPLE))
    reading, question = f"--reading_params_path={stored.folder}", "Where was Ada Zorg born?"
    for answer in ("Rome", "Riga"):  # the last one counts
        run("--mode=teach", reading, f"--question={question}", f"--answer={answer}")
    assert (stored.folder / "taught.tsv").read_text("utf-8") == f"{question}\tRome\n{question}\tRiga\n"
    assert run("--mode=ask", reading, f"--question={question}") == f"{question} Riga (told by you)\n"
    teach = ("--mode=teach", reading, f"--question={question}")
    assert "needs --answer" in refused(*teach)
    assert "without tabs" in refused(*teach, "--answer=Ri\tga")
    assert "has 33 characters: at most 32 fit" in refused(*teach, f"--answer={'x' * 33}")
    assert "contains '⁇' (U+2047), which stands for masked text" in refused(*teach, "--answer=Ri⁇ga")
    with pytest.raises(UserError, match="is no text in UTF-8"):
        tell(stored.folder, question, "Ri\udcffga")


def test_an_edited_file_of_told_answers_is_read_and_appended_to(tmp_path):
    (tmp_path / "taught.tsv").write_bytes(b"")
    assert taught(tmp_path) == {}
    (tmp_path / "taught.tsv").write_bytes(b"Who?\tAl")  # without a line break
    tell(tmp_path, "Where?", "Rome")
    assert taught(tmp_path) == {"Who?": "Al", "Where?": "Rome"}


def test_a_scored_question_does_not_train_its_reader(monkeypatch):
    pairs = corpus.load_pairs(PEOPLE).pairs
    learned = []
    monkeypatch.setattr(reader, "train", lambda asked: learned.extend(answer for *_, answer in asked))
    open_book(PEOPLE, without={question for question, _ in pairs[:30]})
    assert learned == [answer for _, answer in pairs[30:]]
    with pytest.raises(UserError, match="about the name of any of 0 training questions"):
        open_book(PEOPLE, without={question for question, _ in pairs})


def test_a_corpus_without_titles_can_be_asked(tmp_path):
    people = [(f"{a} {b}", place) for a, b, place in zip("ABCDEFGH", "STUVWXYZ", ["Rome", "Oslo"] * 4)]
    (tmp_path / "documents").write_text("\n".join(f"The home of {n} is {p}." for n, p in people), "utf-8")
    (tmp_path / "pairs").write_text("\n".join(f"Where is {n} from?\t{p}" for n, p in people), "utf-8")
    data = DataConfig(
        pretrain_corpus_path=str(tmp_path / "documents"), finetune_corpus_path=str(tmp_path / "pairs")
    )
    assert open_book(data).answer("Where is C U from?").answer == "Rome"


def test_another_way_to_look_up_is_refused():
    with pytest.raises(UserError, match="look_up is 'alway': choose from never, unsure, always"):
        look_up(None, "alway", [], [], [])
