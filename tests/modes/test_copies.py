from types import SimpleNamespace

import pytest

from kgpt_jax.answer import voters
from kgpt_jax.answer.score import Score, wilson_interval
from kgpt_jax.config import load_recipe
from kgpt_jax.data.biographies import generate
from kgpt_jax.modes import compare, copies
from kgpt_jax.train import stages


@pytest.mark.parametrize("mixed", [False, True])
def test_every_cell_reads_as_many_documents(mixed):
    config = load_recipe("configs/quickstart.py")
    cells = [copies.cell(config, n, mixed, 3) for n in copies.COPIES]
    written = [generate(c.data.biographies).documents for c in cells]
    read = [len(documents) * c.pretrain.epochs for documents, c in zip(written, cells)]
    assert read == pytest.approx([260 * 5 * 90] * 4, rel=0.005)
    assert all(len(set(documents)) == len(documents) for documents in written)  # no wording twice
    assert [c.data.biographies.copies for c in cells] == list(copies.COPIES)
    assert {("question_answer" in c.pretrain.objective, c.seed, c.data.biographies.seed) for c in cells} == {
        (mixed, 3, 3)
    }


def test_a_table_and_a_picture(tmp_path, monkeypatch, capsys):
    """In these made-up results, more copies are better, and mixing in questions is better."""
    monkeypatch.setattr(copies, "COPIES", (1, 2))
    monkeypatch.setattr(
        copies,
        "result",
        lambda config, root: {
            "correct": config.data.biographies.copies + 4 * ("question" in config.pretrain.objective),
            "total": 10,
            "seconds": 7,
        },
    )
    copies.compare_copies(load_recipe("configs/quickstart.py"), [1, 2], tmp_path)
    printed = capsys.readouterr().out
    assert "| 1 copy | 10.0% | 10.0% to 10.0% | 2 | 7 |\n| 2 copies | 20.0% |" in printed
    assert "| 1 copy, mixed | 50.0% |" in printed and "| 2 copies, mixed | 60.0% |" in printed
    assert (tmp_path / "copies.png").read_bytes().startswith(b"\x89PNG")


def test_the_picture_has_intervals_and_london(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures, save = [], Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, path, **kw: (figures.append(self), save(self, path, **kw))
    )
    monkeypatch.setattr(copies, "COPIES", (1, 2))
    names = ("1 copy", "2 copies", "1 copy, mixed", "2 copies, mixed")
    one_seed = {name: [{"correct": 5 * i, "total": 20}] for i, name in enumerate(names, 1)}
    copies.draw(one_seed, 0.05, tmp_path / "one.png")
    copies.draw({name: each * 3 for name, each in one_seed.items()}, 0.05, tmp_path / "three.png")
    one, three = (figure.axes[0] for figure in figures)
    assert "95 % intervals over 20 questions, one seed" in one.get_title()
    assert "95 % intervals over 3 seeds" in three.get_title()
    (low, high) = one.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert [low, high] == pytest.approx([100 * end for end in wilson_interval(5, 20)])
    (low, high) = three.containers[0].lines[2][0].get_segments()[0][:, 1]
    assert low == high == pytest.approx(25)  # three equal seeds
    assert "always London (5.0%)" in [text.get_text() for text in one.get_legend().get_texts()]


def test_london_is_that_of_the_seeds_people():
    config = load_recipe("configs/quickstart.py")
    assert copies.london(config, 1) == 8 / 120
    assert copies.london(config, 2) == 5 / 120


def test_a_model_that_has_seen_questions_is_not_finetuned(tmp_path, monkeypatch):
    done = []

    def pretrain(config, folder):
        folder.mkdir(parents=True)
        done.append("pretrain")
        return stages.Trained(folder, 1.0)

    def finetune(config, folder, start):
        done.append("finetune")
        return stages.Trained(folder, 1.0)

    def evaluate(asked, outputs):
        done.append(f"ask {asked[0].name}")
        return SimpleNamespace(score=Score(1, 2))

    monkeypatch.setattr(stages, "pretrain", pretrain)
    monkeypatch.setattr(stages, "finetune", finetune)
    monkeypatch.setattr(compare, "evaluate", evaluate)
    monkeypatch.setattr(voters, "with_voters", lambda run, further, config: [run])
    config = load_recipe("configs/quickstart.py")
    compare.result(copies.cell(config, 1, False, 1), tmp_path / "a")
    compare.result(copies.cell(config, 1, True, 1), tmp_path / "b")
    assert done == ["pretrain", "finetune", "ask finetune", "pretrain", "ask pretrain"]
