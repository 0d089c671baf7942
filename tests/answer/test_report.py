"""The records of answers keep to the published schema, with and without what a run may leave out."""

import json
from pathlib import Path

import pytest

from kgpt_jax.answer.evaluate import Evaluation
from kgpt_jax.answer.evidence import FEATURES
from kgpt_jax.answer.hybrid import LOOKED_UP, Told
from kgpt_jax.answer.label import LABELS
from kgpt_jax.answer.open_book import LookedUp, Source
from kgpt_jax.answer.record import Recited, Sure
from kgpt_jax.answer.report import answer_records
from kgpt_jax.answer.score import Score

SCHEMA = json.loads((Path(__file__).parents[2] / "docs/_static/answers.schema.json").read_text("utf-8"))
BARE = Evaluation(["Where was Al born?"], ["Rome"], None, [], None, [], 1.0)
SURE = Sure("Rome", "read", True, 0.9, 0.9, (0.8, 1.0), "", dict.fromkeys(FEATURES, -1.0), ("Rome", "Oslo"))
FOUND = LookedUp("Oslo", 0.99, Source(3, "Al is from Oslo.", 11, 15), "Al", "name", ("Alf",), {"Oslo": 0.99})
FULL = BARE._replace(
    targets=["Oslo"],
    scored=[0],
    score=Score(1, 1),
    sure=[SURE],
    recited=[[Recited("Rome", 0.7, "Al was born in Rome.", 15, 19)], [None]],
    told=[Told("Oslo", 0.99, 0.99, LOOKED_UP, "Rome", FOUND)],
)


def test_records_keep_to_the_schema():
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(SCHEMA)
    unsure = FULL._replace(sure=None, told=[Told("Rome", None, None, "", "Rome")])
    kinds = [f"{words} was {name} born?" for name in "ABCDE" for words in ("Where", "When")]
    several = BARE._replace(questions=kinds, predictions=["Rome"] * len(kinds))
    for found in (BARE, FULL, unsure, several):
        for record in answer_records(found):
            validator.validate(json.loads(json.dumps(record)))
    (record,) = answer_records(FULL)
    assert record["answer"] == record["target"] == "Oslo" and record["model_answer"] == "Rome"
    with pytest.raises(jsonschema.ValidationError, match="'surprise' was unexpected"):
        validator.validate(record | {"interval": [0.8, 1.0], "one_of": [], "surprise": 1})
    assert answer_records(several)[0]["kind"] == "Where was X born?"


def test_the_schema_names_every_field_and_label():
    (record,) = answer_records(FULL)
    assert {*record, "kind"} == SCHEMA["properties"].keys()
    assert SCHEMA["properties"]["label"]["enum"] == [*LABELS, LOOKED_UP, ""]
    assert SCHEMA["properties"]["evidence"]["required"] == list(FEATURES)
