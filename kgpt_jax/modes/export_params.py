"""--mode=export: writes a run's parameters as one file.

    python -m kgpt_jax.main --mode=export --writing_params_path=vanilla.safetensors

If the name ends in .safetensors, the file also holds the vocabulary and the config, so that --mode=import
needs nothing else. Any other name writes a .params file for the course's PyTorch code.
"""

from pathlib import Path

from kgpt_jax.modes.command import Command

SHARED = ("reading_params_path", "writing_params_path", "checkpoint")


def run(command: Command):
    from kgpt_jax.model.gpt import count_params
    from kgpt_jax.store.compatible import fit_to
    from kgpt_jax.store.outputs import check, record
    from kgpt_jax.store.params import first_model
    from kgpt_jax.store.safetensors_params import save_safetensors
    from kgpt_jax.store.torch_params import save_torch_params

    start = command.start("finetune")
    fit_to(start, command.config(start))
    path = Path(command.needed("writing_params_path"))
    check(path, "parameters")
    if path.suffix == ".safetensors":
        save_safetensors(str(path), first_model(start), start)
    else:
        save_torch_params(str(path), first_model(start), start.config.model)
    record(path, "parameters")
    print(f"wrote {count_params(start.config.model):,} parameters to {path}")
