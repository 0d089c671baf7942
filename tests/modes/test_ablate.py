import json

import pytest

from kgpt_jax.config import Config, UserError, leaves, load_recipe, override, to_dict
from kgpt_jax.data.corpus import digest
from kgpt_jax.modes import ablate as ablation
from kgpt_jax.modes.ablate import PARTS, ablate, right, trainings
from kgpt_jax.modes.compare import result

FIELDS = [field for fields in PARTS.values() for field in fields]


def test_what_differs_is_in_a_part_or_the_same_for_all():
    """Fields that differ and are in no part are those in the module's docstring."""
    best, course = leaves(load_recipe("configs/best.py")), leaves(load_recipe("configs/course_2024.py"))
    other = {name for name in best if best[name] != course[name]} - set(FIELDS)
    assert {name for name in other if not name.startswith("scratch.")} == {
        *("model.seq_len", "model.products"),
        *("pretrain.epochs", "pretrain.batch_size", "pretrain.save_every"),
        *("pretrain.final_tokens", "pretrain.first_step_at_peak", "data.ascii_pairs"),
        *("finetune.warmup_tokens", "finetune.final_tokens", "finetune.first_step_at_peak"),
        *(
            "finetune.shuffle",
            "finetune.text_tokens",
            "finetune.group_by_length",
            "finetune.save_every",
        ),
    }
    assert len(set(FIELDS)) == len(FIELDS)


def test_every_part_is_changed_by_itself():
    best, course = load_recipe("configs/best.py"), leaves(load_recipe("configs/course_2024.py"))
    named = {name: leaves(config) for name, config in trainings(best).items()}
    assert len(named) == 2 + 2 * len(PARTS)
    whole = leaves(best)
    assert named["whole"] == whole
    assert all(named["course"][field] == course[field] for field in FIELDS)
    for part, fields in PARTS.items():
        others = set(FIELDS) - set(fields)
        without, only = named[f"without {part}"], named[f"only {part}"]
        assert all(without[field] == course[field] and only[field] == whole[field] for field in fields)
        assert all(without[field] == whole[field] and only[field] == course[field] for field in others)
    assert all(
        each["pretrain.epochs"] == 240 and each["pretrain.batch_size"] == 256 for each in named.values()
    )


def test_a_part_that_is_the_courses_is_left_out():
    vanilla = override(load_recipe("configs/best.py"), {"model.variant": "vanilla"})
    assert "only positions" not in trainings(vanilla) and "only dropout" in trainings(vanilla)
    with pytest.raises(UserError, match="--config=configs/best.py"):
        trainings(load_recipe("configs/course_2024.py"))


def test_gains_are_paired(tmp_path, monkeypatch, capsys):
    """In these made-up answers, leaving a part out costs one answer of four, and alone it gains none."""
    said = {"whole": [1, 1, 0, 0], "without_dropout": [1, 0, 0, 0], "only_dropout": [0, 0, 0, 1]}

    def answers(root):
        return [bool(each) for each in said.get(root.name, [0, 0, 0, 1])]

    monkeypatch.setattr(ablation, "PARTS", {"dropout": ["model.dropout"]})
    monkeypatch.setattr(ablation, "right", answers)
    monkeypatch.setattr(
        ablation, "result", lambda _, root: {"correct": sum(answers(root)), "total": 4, "seconds": 60}
    )
    ablate(load_recipe("configs/best.py"), [1, 2], tmp_path)
    rows = capsys.readouterr().out.splitlines()[-4:]
    assert rows == [
        # Gains of 1, 1, 0 and -1: a mean of 0.25, a deviation of 0.957, and 1.96 of it by the root of four.
        "| whole | 50.0% | 50.0% to 50.0% | 2 | 60 | +25.0% | -68.8% to +118.8% |",
        "| course | 25.0% | 25.0% to 25.0% | 2 | 60 | | |",
        "| without dropout | 25.0% | 25.0% to 25.0% | 2 | 60 | -25.0% | -74.0% to +24.0% |",
        "| only dropout | 25.0% | 25.0% to 25.0% | 2 | 60 | +0.0% | +0.0% to +0.0% |",
    ]


def test_right_answers_are_found_again(tmp_path):
    """Without those that were trained on, which do not count in the accuracy either."""
    path = tmp_path / "evaluate" / "answers.jsonl"
    path.parent.mkdir()
    rows = ((True, True), (True, False), (False, True))
    path.write_text("".join(json.dumps({"right": right, "scored": scored}) + "\n" for right, scored in rows))
    assert right(tmp_path) == [True, False]
    path.write_text("{\n")
    with pytest.raises(
        UserError, match="cannot read .*answers.jsonl .*: remove .*result.json, and the model"
    ):
        right(tmp_path)


@pytest.mark.parametrize(
    "name, what", [("dev.tsv", "questions"), ("pairs.tsv", "training data"), ("docs.txt", "training data")]
)
def test_a_result_belongs_to_its_data(tmp_path, name, what):
    texts = {
        "docs.txt": "Ann Bo was born in Rome .",
        "pairs.tsv": "Where was Ann Bo born?\tRome",
        "dev.tsv": "Where was Cy Do born?\tOslo",
    }
    for file, text in texts.items():
        (tmp_path / file).write_text(f"{text}\n")
    paths = dict(zip(("pretrain", "finetune", "eval"), texts))
    changes = {f"data.{stage}_corpus_path": str(tmp_path / file) for stage, file in paths.items()}
    config = override(Config(), changes)
    asked, pair = (texts[file].split("\t") for file in ("dev.tsv", "pairs.tsv"))
    read = digest([texts["docs.txt"], "", *pair])  # an empty document follows the last end of a line
    found = {"correct": 1, "total": 1, "seconds": 7, "asked": digest(asked), "read": read}
    (tmp_path / "result.json").write_text(json.dumps(found | {"config": to_dict(config)}))
    assert result(config, tmp_path)["seconds"] == 7
    (tmp_path / name).write_text(f"{texts[name]}s\n")
    with pytest.raises(UserError, match=f"is the result with the {what} '[0-9a-f]{{16}}', and '"):
        result(config, tmp_path)
