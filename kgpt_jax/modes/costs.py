"""--mode=costs: prints parameters, formula and cost of each variant, on paper and as XLA counts it.

python -m kgpt_jax.main --mode=costs --variants=vanilla,linformer --lengths=128,2048

kgpt_jax/model/costs.py lists the letters in the formulas. XLA's figures are for a forward pass over one text
and for an AdamW update on it.
"""

from dataclasses import replace

from absl import flags

from kgpt_jax.modes.command import Command

SHARED = ("variants",)


def define_flags(values: flags.FlagValues):
    flags.DEFINE_list("lengths", "128,512,2048", "Lengths of texts, in characters.", flag_values=values)


def run(command: Command):
    from kgpt_jax.model.costs import formula, paper_cost, paper_flops
    from kgpt_jax.model.gpt import count_params
    from kgpt_jax.model.variants import each, options_of
    from kgpt_jax.train.costs import forward_counts, update_counts

    config, lengths = command.config(), command.whole_numbers("lengths")
    sized = replace(config.model, vocab_size=config.model.vocab_size or 256)
    models = each(sized, command.variants())
    print(f"{'variant':<30}{'parameters':>11}  formula")
    for cfg in models:
        print(f"{cfg.variant:<30}{count_params(cfg):>11,}  {formula(cfg)}")
    print(f"\n{'variant':<30}options (--config.model.options=NAME=NUMBER)")
    for cfg in models:
        for option in options_of(cfg).values():
            print(f"{cfg.variant:<30}{option}")
    print(f"\n{'variant':<30}multiplications of a forward pass")
    for cfg in models:
        print(f"{cfg.variant:<30}{paper_cost(cfg)}")
    print(f"\n{'':<38}{'paper':>10}{'XLA forward':>20}{'XLA update':>20}  XLA / paper")
    heads = f"{'MFLOP':>10}{'MFLOP':>10}{'MB':>10}{'MFLOP':>10}{'MB':>10}"
    print(f"{'variant':<30}{'length':>8}{heads}  forward  update")
    for cfg in models:
        for T in lengths:
            longer = replace(cfg, seq_len=T, block_size=T)
            paper, forward, update = (
                paper_flops(longer, T),
                forward_counts(longer, T),
                update_counts(longer, T),
            )
            numbers = [paper, *forward, *update]
            columns = "".join(f"{number / 1e6:>10,.1f}" for number in numbers)
            ratios = f"{forward.flops / paper:>9.2f}{update.flops / paper:>8.2f}"
            print(f"{cfg.variant:<30}{T:>8,}{columns}{ratios}", flush=True)
