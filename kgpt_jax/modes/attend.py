"""--mode=attend: answers a question and draws who looked at whom meanwhile.

python -m kgpt_jax.main --mode=attend --question="Where was Ruth Kaplan born?"
"""

from pathlib import Path

from kgpt_jax.config import UserError

SHARED = ("reading_params_path", "outputs_path", "checkpoint", "question")
PANEL_INCHES = 3.2


def run(command):
    [question] = command.needed("question")[:1]
    start = command.start("finetune")
    attend(
        command.config(start),
        start,
        question,
        Path(command.flags.outputs_path or start.folder / "attention.png"),
    )


def attend(config, run, question: str, path: Path):
    """Lets a run answer a question, and draws who looked at whom meanwhile."""
    from kgpt_jax.answer.attention import attention_maps
    from kgpt_jax.answer.predict import MAX_ANSWER, predict
    from kgpt_jax.data.vocab import MASK
    from kgpt_jax.model.gpt import GPT
    from kgpt_jax.store.compatible import fit_to
    from kgpt_jax.store.outputs import check, record
    from kgpt_jax.store.params import first_model

    config = fit_to(run, config)
    if unknown := run.vocab.unknown(question):
        raise UserError(f"--question has {unknown!r}, which the vocabulary of {run.folder} lacks")
    if not 1 <= len(question) < config.model.seq_len - MAX_ANSWER:
        raise UserError(
            f"--question has {len(question)} characters: give 1 to {config.model.seq_len - MAX_ANSWER - 1}, "
            "so that an answer fits"
        )
    check(path, "attention")
    model, params = GPT(config.model), first_model(run, "reading with")
    [answer], _ = predict(model, params, run.vocab, [question])
    print(f"{question} {answer}")
    maps = attention_maps(model, params, run.vocab, f"{question}{MASK}{answer}", len(question) + 1)
    draw(maps, f"{config.model.variant}: {question} {answer}", path)
    record(path, "attention")
    print(f"wrote {path}")


def draw(maps: list, title: str, path: Path):
    """Writes a picture with a row for each layer and a column for each head."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    n_head = len(maps[0].weights_HTS)
    figure, panels = pyplot.subplots(
        len(maps),
        n_head,
        squeeze=False,
        figsize=(PANEL_INCHES * n_head, PANEL_INCHES * len(maps) + 0.5),
        layout="constrained",
    )
    for found, row in zip(maps, panels):
        for head, (panel, weights_TS) in enumerate(zip(row, found.weights_HTS)):
            panel.imshow(weights_TS, vmin=0, vmax=1, cmap="magma_r", aspect="auto")
            panel.set_title(f"{found.layer}, head {head}", fontsize=8)
            for set_ticks, names in ((panel.set_xticks, found.columns), (panel.set_yticks, found.rows)):
                points = min(8, 0.7 * 72 * PANEL_INCHES / len(names))
                set_ticks(range(len(names)), _visible(names), fontsize=points)
            panel.tick_params(length=0, pad=1)
    figure.suptitle(f"{title}\nrows ask, columns are looked at; dark is 1, light is 0")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:  # a folder, or an ending that is no picture's
        raise UserError(f"cannot write {path}: {error}; give another --outputs_path") from None
    finally:
        pyplot.close(figure)


def _visible(characters: list[str]) -> list[str]:
    return [character.replace(" ", "␣").replace("$", r"\$") for character in characters]
