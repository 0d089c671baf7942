"""--mode=contents: lists what a run's folder holds: facts about the run, and which checkpoints are valid.

python -m kgpt_jax.main --mode=contents --reading_params_path=runs/vanilla/pretrain
"""

import json
from pathlib import Path

from kgpt_jax.data.holdout import UNKNOWN
from kgpt_jax.modes.command import Command

SHARED = ("reading_params_path",)


def run(command: Command):
    list_run(Path(command.needed("reading_params_path")))


def list_run(folder: Path):
    """Prints facts about the run in a folder, and a table of its checkpoints, the newest last."""
    from kgpt_jax.model.gpt import count_params
    from kgpt_jax.store.digests import damage
    from kgpt_jax.store.folder import read_run, saved_steps

    run = read_run(folder)
    facts, model = run.facts, run.config.model
    size = run.config.n_seeds * count_params(model)
    several = f", {run.config.n_seeds} models with together" if run.config.n_seeds > 1 else ","
    print(f"{folder}: {facts['stage']}, {model.variant}{several} {size:,} parameters")
    rows = {
        "layers": f"{model.n_layer}, {model.n_head} heads, {model.n_embd} wide, texts of {model.seq_len}",
        "vocabulary": f"{len(run.vocab)} symbols",
        "seed": run.config.seed,
        "updates": facts.get("updates", "none: parameters alone"),
        "read": _read(run),
        "data": f"digest {facts.get('data_digest')}, {_learned(facts)}",
        "started from": facts.get("started_from", "nothing"),
        "taught by": ", ".join(facts.get("taught_by", ["nobody"])),
        "made on": ", ".join(f"{name} {value}" for name, value in facts.get("made_on", {}).items()),
    }
    for name, value in rows.items():
        print(f"    {name:<14}{value}")
    steps = sorted(saved_steps(folder))
    if not steps:
        print("no checkpoint yet")
        return
    print(f"{'update':>10}{'MB':>10}{'loss':>10}{'seconds':>10}  valid")
    for step in steps:
        checkpoint = folder / "checkpoints" / str(step)
        megabytes = 0.0
        try:
            megabytes = sum(path.stat().st_size for path in checkpoint.rglob("*") if path.is_file()) / 1e6
            problem = damage(checkpoint)
            meta = None if problem else json.loads((checkpoint / "meta" / "metadata").read_text("utf-8"))
        except OSError as error:  # a running training may have just removed it
            problem = f"it cannot be read: {error.strerror}"
        if problem:
            print(f"{step:>10,}{megabytes:>10.1f}{'':>20}  no: {problem}")
            continue
        loss = "" if meta["loss"] is None else f"{meta['loss']:.3f}"
        print(f"{step:>10,}{megabytes:>10.1f}{loss:>10}{meta['seconds']:>10,.1f}  yes")


def _learned(facts: dict) -> str:
    if "learned" not in facts:
        return "what questions it learned is unknown"
    marks = facts["learned"].split()
    known = [mark for mark in marks if mark != UNKNOWN]
    return f"{len(known)} fingerprints of learned questions{', others unknown' if UNKNOWN in marks else ''}"


def _read(run) -> str:
    """Returns how many epochs and characters a run has read so far, and the FLOPs for them."""
    from kgpt_jax.model.costs import training_flops
    from kgpt_jax.train.progress import read_metrics

    records = read_metrics(run.folder / "metrics.jsonl")
    if not records:
        return "nothing yet"
    tokens, texts = sum(record.get("tokens", 0) for record in records), len(records)
    texts *= getattr(run.config, run.facts["stage"]).batch_size
    flops = run.config.n_seeds * training_flops(run.config.model, max(tokens, 1), texts)
    return f"{records[-1]['epoch']} epochs, {tokens:,} characters, {flops:.1e} FLOPs on paper"
