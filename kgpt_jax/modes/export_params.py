"""--mode=export: writes a run's parameters as a file for the course's PyTorch code.

python -m kgpt_jax.main --mode=export --writing_params_path=vanilla.params
"""

from pathlib import Path

SHARED = ("reading_params_path", "writing_params_path", "checkpoint")


def run(command):
    from kgpt_jax.store.compatible import fit_to
    from kgpt_jax.store.outputs import check, record
    from kgpt_jax.store.params import first_model
    from kgpt_jax.store.torch_params import save_torch_params

    start = command.start("finetune")
    fit_to(start, command.config(start))
    path = Path(command.needed("writing_params_path"))
    check(path, "parameters")
    save_torch_params(str(path), first_model(start), start.config.model)
    record(path, "parameters")
    print(f"wrote {path}")
