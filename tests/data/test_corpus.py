"""Users' files give the right rows, notes that count repairs, or an error that names the line."""

import dataclasses

import pytest

from kgpt_jax.config import BiographiesConfig, DataConfig, UserError
from kgpt_jax.data import biographies, corpus

SMALL = BiographiesConfig(n_train=6, n_dev=4, n_test=3, copies=2)
ALL = dataclasses.replace(SMALL, questions="all", n_facts=6)


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "file.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
        return str(path)

    return write


def test_a_last_line_break_is_followed_by_an_empty_document(file):
    documents, characters, notes = corpus.read_documents(file("Ann.\nBo\n"))
    assert list(documents) == ["Ann.", "Bo", ""]
    assert characters == "\n.ABno"
    assert notes == []


@pytest.mark.parametrize("people", [SMALL, ALL])
def test_built_in_documents_equal_their_files(people, tmp_path):
    biographies.write(biographies.generate(people), tmp_path)
    built_in = corpus.load_documents(DataConfig(biographies=people))
    read = corpus.read_documents(str(tmp_path / "wiki.txt"))
    assert built_in.documents == list(read.documents)
    assert set(built_in.characters) >= set(read.characters) | {"?"}
    train = corpus.read_table(str(tmp_path / "birth_places_train.tsv"))
    assert train.pairs == corpus.load_pairs(DataConfig(biographies=people)).pairs
    dev = corpus.read_table(str(tmp_path / "birth_dev.tsv"))
    assert dev.pairs == corpus.load_questions(DataConfig(biographies=people)).pairs
    assert corpus.read_table(str(tmp_path / "birth_test_inputs.tsv")).answers is None


def test_table_with_and_without_answers(file):
    table = corpus.read_table(file("Where was Al born?\tRome\nWhere was Bo born?\tNew York\n"))
    assert table.pairs == [("Where was Al born?", "Rome"), ("Where was Bo born?", "New York")]
    table = corpus.read_table(file("Where was Al born?\nWhere was Bo born?"))
    assert table == (["Where was Al born?", "Where was Bo born?"], None, [])
    assert corpus.read_table(file("Where was John  Smith born?\n")).questions == [
        "Where was John  Smith born?"
    ]


def test_repairs_are_noted(file):
    path = file(b"\xef\xbb\xbfA?\tRome\r\nB?\tOslo \r\n\r\n\r\n")
    table = corpus.read_table(path)
    assert table.pairs == [("A?", "Rome"), ("B?", "Oslo")]
    assert table.notes == [
        f"{path}: ignored the byte-order mark",
        f"{path}: read 4 line breaks of the CRLF kind as plain ones",
        f"{path}: ignored 2 empty lines at the end",
    ]


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        (b"Ann\nB\xff\n", "line 2: byte 0xff is not UTF-8: save the file as UTF-8"),
        ("Ann\nB⁇o\n", r"line 2 contains '⁇' \(U\+2047\), which stands for masked text"),
        ("Ann\nBo\nC□\n", r"line 3 contains '□' \(U\+25A1\), which stands for padding"),
    ],
)
def test_bad_text_is_refused(file, content, complaint):
    for read in (corpus.read_documents, corpus.read_table):
        with pytest.raises(UserError, match=complaint):
            read(file(content))


@pytest.mark.parametrize(
    "content, complaint",
    [
        ("A?\tRome\n\nB?\tOslo\n", "line 2 is empty: remove it"),
        ("A?\tRome\nB? Oslo\n", "line 2 has no answer after a tab, and line 1 has one"),
        ("A?\nB?\tOslo\n", "line 2 has a tab, and line 1 has no answer after one"),
        ("A?\tRome\tItaly\n", "line 1 has 2 tabs where one belongs"),
        ("A?\tRome\n\tOslo\n", "line 2 lacks its question"),
        ("A?\tRome\nB?\t\n", "line 2 has no answer after a tab"),
        ("Where was A born?\tNew\x0bYork\n", "line 1 has a line break inside"),
        ("Where was A born?    Rome\n", "line 1 looks like an answer after spaces; put one tab"),
        ("Where was A born? Rome\n", "line 1 looks like an answer after spaces"),
    ],
)
def test_bad_tables_are_refused(file, content, complaint):
    with pytest.raises(UserError, match=complaint):
        corpus.read_table(file(content))


def test_missing_files_and_paths_are_named(tmp_path, file):
    with pytest.raises(UserError, match="cannot read nowhere.txt: No such file"):
        corpus.read_documents("nowhere.txt")
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        corpus.read_table(str(tmp_path))
    own = DataConfig(pretrain_corpus_path="wiki.txt")
    with pytest.raises(UserError, match="about your own corpus: give --finetune_corpus_path=FILE"):
        corpus.load_pairs(own)
    with pytest.raises(UserError, match="needs --eval_corpus_path"):
        corpus.load_questions(own)
    with pytest.raises(UserError, match="has no answers"):
        corpus.load_pairs(DataConfig(finetune_corpus_path=file("A?\n")))
    with pytest.raises(UserError, match="n_dev is 0: there is nobody to ask about"):
        corpus.load_questions(DataConfig(biographies=BiographiesConfig(n_dev=0)))


def test_pairs_lose_their_accents_only_when_asked(file):
    path = file("Where was Zoë born?\tSão Paulo\n")
    assert corpus.load_pairs(DataConfig(finetune_corpus_path=path)).answers == ["São Paulo"]
    ascii_pairs = corpus.load_pairs(DataConfig(finetune_corpus_path=path, ascii_pairs=True)).pairs
    assert ascii_pairs == [("Where was Zo born?", "So Paulo")]
    empty = DataConfig(finetune_corpus_path=file("A?\tRome\nB?\t東京\n"), ascii_pairs=True)
    with pytest.raises(UserError, match="training pair 2 is empty without its non-ASCII"):
        corpus.load_pairs(empty)
    path = file("Where was Zoë born?\tSão Paulo\n")
    assert corpus.load_questions(DataConfig(eval_corpus_path=path, ascii_pairs=True)).questions == [
        "Where was Zoë born?"
    ]


def test_training_pairs_lend_their_characters(tmp_path):
    (tmp_path / "wiki.txt").write_text("Ann\n")
    (tmp_path / "pairs.tsv").write_text("Who?\tBo\n")
    paths = {"pretrain_corpus_path": str(tmp_path / "wiki.txt")}
    asked = "".join(sorted(set("Where was born?")))  # of the course's question, always known
    assert corpus.load_documents(DataConfig(**paths)).characters == "".join(sorted({*"\nAn", *asked}))
    paths["finetune_corpus_path"] = str(tmp_path / "pairs.tsv")
    both = corpus.load_documents(DataConfig(**paths))
    assert set(both.characters) == {*"\nAnn", *"Who?Bo", *asked} and list(both.documents) == ["Ann", ""]


def test_digests_of_different_texts_differ():
    assert corpus.digest(["ab", "c"]) != corpus.digest(["a", "bc"])
