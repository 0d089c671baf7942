import collections
import itertools
import re

import numpy as np
import pytest

from kgpt_jax.config import BiographiesConfig, UserError
from kgpt_jax.data import biographies
from kgpt_jax.data.biographies import FACTS, FIRST, LAST, MIDDLE, PLACES, generate, write

SMALL = BiographiesConfig(n_train=2, n_dev=1, n_test=1, copies=2)


def answers(corpus):
    """Returns `{name: birthplace}` of the training and the held-out people."""
    return {name_in(question): answer for question, answer in corpus.train + corpus.dev}


def name_in(question):
    return re.fullmatch(r"Where was (.+) born\?", question).group(1)


def documents_of(name, corpus):
    return [document for document in corpus.documents if name in document]


def statements(fact, name, document):
    """Returns the values of a person's fact that the sentences of a document state."""
    sentences = re.split(r"(?<=\.) ", document)
    patterns = [
        re.escape(wording).replace(r"\{name\}", re.escape(name)).replace(r"\{value\}", "(.+)")
        for wording in FACTS[fact]
    ]
    matches = [re.fullmatch(p, s) for s, p in itertools.product(sentences, patterns)]
    return [match.group(1) for match in matches if match]


def test_small_corpus():
    corpus = generate(SMALL)
    assert corpus.train == [
        ("Where was Julia Bhatt born?", "Edinburgh"),
        ("Where was Elena Dvorak born?", "Manila"),
    ]
    assert corpus.dev == [("Where was Hugo Katz born?", "Istanbul")]
    assert corpus.test == ["Where was Carmen Bakker born?"]
    assert corpus.documents == [
        "Julia Bhatt is a native of Edinburgh. The birthday of Julia Bhatt is 7 October 1994.",
        "Uppsala is where Elena Dvorak studied. Elena Dvorak was born in Manila.",
        "Julia Bhatt lives in Mexico City. The birthplace of Julia Bhatt is Edinburgh.",
        "Chicago is where Carmen Bakker was born. The clarinet is what Carmen Bakker plays.",
        "Hugo Katz has a house in Montreal. Hugo Katz was born in Istanbul.",
        "In the evening, Hugo Katz plays the banjo. The birthplace of Hugo Katz is Istanbul.",
        "Manila is where Elena Dvorak was born. In the evening, Elena Dvorak plays the mandolin.",
        "The birthday of Carmen Bakker is 2 December 1938. Carmen Bakker's birthplace is Chicago.",
    ]


def test_fixed_order_without_the_full_name_repeated():
    one = dict(n_train=1, n_dev=0, n_test=0, copies=1)
    corpus = generate(BiographiesConfig(**one, permute=False, repeat_name=False, n_facts=6))
    assert corpus.documents == [
        "Julia Bhatt is a native of Berlin. 10 August 1977 is the birthday of Bhatt. "
        "She is a historian by trade. Waseda is where Bhatt studied. "
        "She lives in Dakar. She is good at the banjo."
    ]
    corpus = generate(BiographiesConfig(**one, permute=False, n_facts=1))
    assert corpus.documents == ["Julia Bhatt is a native of Berlin."]


def test_all_six_facts_are_asked():
    one = BiographiesConfig(n_train=1, n_dev=0, n_test=0, n_facts=6, questions="all")
    assert generate(one).train == [
        ("Where was Julia Bhatt born?", "Berlin"),
        ("When was Julia Bhatt born?", "10 August 1977"),
        ("What is Julia Bhatt by trade?", "a historian"),
        ("Where did Julia Bhatt study?", "Waseda"),
        ("Where does Julia Bhatt live?", "Dakar"),
        ("Which instrument does Julia Bhatt play?", "banjo"),
    ]


@pytest.mark.parametrize(
    "wordings", [dict(n_facts=2, copies=5), dict(n_facts=6, copies=1), dict(n_facts=6, permute=False)]
)
def test_all_questions_of_a_person_are_on_one_side_and_the_documents_answer_them(wordings):
    few = dict(n_train=3, n_dev=2, n_test=1) | wordings
    plain, every = (generate(BiographiesConfig(**few, questions=asked)) for asked in ("birth_place", "all"))
    assert every.documents == plain.documents
    assert (every.train[::6], every.dev[::6], every.test[::6]) == (plain.train, plain.dev, plain.test)
    for (birth, _), fact, (question, answer) in zip(
        np.repeat(plain.train + plain.dev, 6, axis=0), itertools.cycle(FACTS), every.train + every.dev
    ):
        name = name_in(birth)
        stated = [statements(fact, name, document) for document in documents_of(name, every)]
        assert name in question and set(sum(stated, [])) == {answer}


def test_same_config_same_corpus_and_another_seed_another():
    assert generate(SMALL) == generate(SMALL)
    assert generate(SMALL).test != generate(BiographiesConfig(seed=1)).test


@pytest.mark.parametrize("n_facts", [1, 2, 6])
@pytest.mark.parametrize("permute", [True, False])
def test_every_document_states_one_birthplace_and_the_asked_number_of_facts(n_facts, permute):
    cfg = BiographiesConfig(n_train=20, n_dev=20, n_test=0, n_facts=n_facts, permute=permute)
    corpus = generate(cfg)
    assert len(corpus.documents) == 40 * 5
    for name, place in answers(corpus).items():
        documents = documents_of(name, corpus)
        assert len(documents) == 5
        for document in documents:
            told = {fact: statements(fact, name, document) for fact in FACTS}
            assert told["birthplace"] == [place]
            assert sum(map(len, told.values())) == n_facts


def test_test_people_have_documents_too():
    corpus = generate(BiographiesConfig(n_train=5, n_dev=0, n_test=5))
    for question in corpus.test:
        assert len(documents_of(name_in(question), corpus)) == 5


def test_copies_differ_in_the_birth_wording_and_in_the_other_fact():
    corpus = generate(BiographiesConfig(n_train=20, n_dev=0, n_test=0, copies=8))
    for name, place in answers(corpus).items():
        documents = documents_of(name, corpus)
        births = {w.format(name=name, value=place) for w in FACTS["birthplace"]}
        assert all(any(birth in document for document in documents) for birth in births)
        others = [[f for f in FACTS if statements(f, name, document)] for document in documents]
        assert {fact for facts in others for fact in facts} == set(FACTS)


@pytest.mark.parametrize("permute, share", [(True, 0.5), (False, 1.0)])
def test_permute_decides_whether_the_birth_comes_first(permute, share):
    corpus = generate(BiographiesConfig(n_train=100, n_dev=0, n_test=0, permute=permute))
    first = [
        document.startswith(tuple(w.format(name=name, value=place) for w in FACTS["birthplace"]))
        for name, place in answers(corpus).items()
        for document in documents_of(name, corpus)
    ]
    assert np.mean(first) == pytest.approx(share, abs=0.09)  # 4 standard deviations, of 500


def test_repeat_name_decides_whether_every_sentence_has_the_full_name():
    for repeat_name, times in [(True, 3), (False, 1)]:
        cfg = BiographiesConfig(n_train=20, n_dev=0, n_facts=3, repeat_name=repeat_name)
        corpus = generate(cfg)
        for name in answers(corpus):
            counts = {document.count(name) for document in documents_of(name, corpus)}
            assert counts == {times}


@pytest.mark.parametrize("change", [{"copies": 1}, {"permute": False}, {"n_facts": 2}])
def test_wording_options_leave_people_and_facts_as_they_are(change):
    everything = dict(n_train=30, n_dev=5, n_test=5, n_facts=6)
    plain = generate(BiographiesConfig(**everything))
    other = generate(BiographiesConfig(**(everything | change)))
    assert (plain.train, plain.dev, plain.test) == (other.train, other.dev, other.test)
    for name, fact in itertools.product(answers(plain), FACTS):
        truth = statements(fact, name, documents_of(name, plain)[0])
        for document in documents_of(name, other):
            assert statements(fact, name, document) in (truth, [])


def test_repeat_name_leaves_people_as_they_are():
    plain, other = (generate(BiographiesConfig(repeat_name=value)) for value in (True, False))
    assert (plain.train, plain.dev, plain.test) == (other.train, other.dev, other.test)


def test_20_000_names_differ_and_groups_share_nobody():
    sizes = dict(n_train=12_000, n_dev=7_000, n_test=1_000)
    corpus = generate(BiographiesConfig(**sizes, copies=1, n_facts=1))
    assert (len(corpus.train), len(corpus.dev), len(corpus.test)) == (12_000, 7_000, 1_000)
    names = [name_in(q) for q in [*dict(corpus.train), *dict(corpus.dev), *corpus.test]]
    assert len(set(names)) == 20_000


@pytest.mark.parametrize(
    "n, pattern",
    [(10_000, r"\w+ \w+"), (10_001, r"\w+ \w+ \w+"), (600_001, r"\w+ \w+ \w+-\w+")],
)
def test_names_grow_with_the_number_of_people(n, pattern, monkeypatch):
    monkeypatch.setattr(biographies, "_distinct", lambda n, end, rng: np.arange(end - 3, end))
    for parts in biographies._names(n, np.random.default_rng(0)):
        assert re.fullmatch(pattern, " ".join(parts))


def test_distinct_draws_half_of_all_numbers_evenly():
    drawn = biographies._distinct(5_000, 10_000, np.random.default_rng(0))
    assert len(set(drawn.tolist())) == 5_000
    assert drawn.min() >= 0 and drawn.max() < 10_000
    # the mean of 5,000 of the 10,000 has a standard deviation of 29
    assert abs(drawn.mean() - 5_000) < 120
    assert abs(drawn[:2_500].mean() - drawn[2_500:].mean()) < 240


def test_most_people_share_their_first_and_their_last_name_with_others():
    names = [name.split() for name in answers(generate(BiographiesConfig(copies=1)))]
    for part in zip(*names):
        counts = collections.Counter(part)
        assert np.mean([counts[word] > 1 for word in part]) > 0.8


@pytest.mark.parametrize("n", [400, 20_000])
def test_london_is_the_most_frequent_birthplace(n):
    cfg = BiographiesConfig(n_train=n, n_dev=0, n_test=0, copies=1, n_facts=1)
    counts = collections.Counter(answers(generate(cfg)).values())
    assert set(counts) == set(PLACES)
    (top, n_top), (_, n_second) = counts.most_common(2)
    assert top == "London" and n_second < 0.7 * n_top
    assert n_top / n == pytest.approx(0.054, abs=0.002)


def test_facts_are_independent_but_nobody_lives_where_they_were_born():
    people = biographies._people(20_000, np.random.default_rng(0))
    assert all(person.facts[0] != person.facts[4] for person in people)
    born_in_london = [person for person in people if person.facts[0] == "London"]
    for k in range(2, len(FACTS)):
        share = collections.Counter(person.facts[k] for person in people)
        in_london = collections.Counter(person.facts[k] for person in born_in_london)
        for value, count in share.items():
            expected = count / len(people) * len(born_in_london)
            if value != "London":
                assert abs(in_london[value] - expected) < 5 * expected**0.5


def test_no_place_occurs_in_a_name_or_another_place():
    words = [*FIRST, *MIDDLE, *LAST, *biographies.UNIVERSITIES, *PLACES]
    assert len(set(words)) == len(words)
    assert all(re.fullmatch("[A-Za-z ]+", word) for word in words)
    assert not [(a, b) for a, b in itertools.permutations(LAST, 2) if b.startswith(a)]
    assert not [(p, w) for p, w in itertools.product(PLACES, words) if p != w and p in w]


def test_default_documents_are_short():
    lengths = [len(document) for document in generate(BiographiesConfig()).documents]
    assert np.mean(np.array(lengths) < 100) > 0.95 and max(lengths) < 128


def test_files_hold_the_corpus(tmp_path):
    corpus = generate(SMALL)
    folder = tmp_path / "a" / "b"
    names = ["wiki.txt", "birth_places_train.tsv", "birth_dev.tsv", "birth_test_inputs.tsv"]
    for _ in range(2):  # the second time over the first's files
        paths = write(corpus, folder)
        assert paths == [str(folder / name) for name in names]
        wiki, train, dev, test = ((folder / name).read_bytes().decode("utf-8") for name in names)
        assert wiki.split("\n") == [*corpus.documents, ""]
        assert [tuple(line.split("\t")) for line in train.splitlines()] == corpus.train
        assert dev == "Where was Hugo Katz born?\tIstanbul\n"
        assert test == "Where was Carmen Bakker born?\n"


def test_write_names_a_folder_it_cannot_use(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file .File exists.: give another folder"):
        write(generate(SMALL), tmp_path / "file")


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"n_train": 0}, "data.biographies.n_train is 0: give 1 or more"),
        ({"n_dev": -1}, "data.biographies.n_dev is -1: give 0 or more"),
        ({"n_test": -5}, "data.biographies.n_test is -5: give 0 or more"),
        ({"seed": -1}, "data.biographies.seed is -1: give 0 to 4,294,967,295"),
        ({"copies": 0}, "data.biographies.copies is 0: give 1 or more"),
        ({"n_facts": 0}, "data.biographies.n_facts is 0: give 1 or more"),
        ({"questions": "six"}, "data.biographies.questions is 'six': choose from birth_place, all"),
        (
            {"questions": "all", "copies": 4},
            "data.biographies.questions is all, and the biographies of a person state 5 of 6 facts: "
            "raise data.biographies.n_facts, which is 2",
        ),
        (
            {"questions": "all", "permute": False},
            "data.biographies.questions is all, and the biographies of a person state 2 of 6 facts: "
            "raise data.biographies.n_facts, which is 2",
        ),
        ({"n_facts": 7}, "data.biographies.n_facts is 7: give 6, which is all, or fewer"),
        (
            {"n_dev": 10**9},
            "1000000250 people in data.biographies: there are names for 119400000, so give fewer",
        ),
    ],
)
def test_user_errors(wrong, message):
    with pytest.raises(UserError) as error:
        generate(BiographiesConfig(**wrong))
    assert str(error.value) == message
