"""A variant's own options: declared beside its class, and given by name in `ModelConfig.options`.

BLOCK = Option("attention_block", 16, "positions in a block", letter="W")

class BigBirdAttention(nn.Module):
    options = (BLOCK,)
    ...
    W = BLOCK.of(self.cfg)
"""

from typing import NamedTuple

from kgpt_jax.config import ModelConfig, UserError, read_options


class Option(NamedTuple):
    """A whole number that only some variants have.

    Attributes:
      name: its name in `ModelConfig.options`.
      default: its value where `ModelConfig.options` does not name it.
      about: its meaning, in one line.
      letter: what stands for it in the class's `cost`; empty where no product depends on it.
      least: the smallest value that is allowed.
      most: the largest value that is allowed.
      within: a field of `ModelConfig` that a given value may not exceed; empty for none. The default may
        exceed it: it holds for every size of model.
    """

    name: str
    default: int
    about: str
    letter: str = ""
    least: int = 1
    most: int = 1_000_000
    within: str = ""

    def of(self, cfg: ModelConfig) -> int:
        """Returns the value that `cfg.options` gives, or the default."""
        return read_options(cfg.options).get(self.name, self.default)

    def check(self, cfg: ModelConfig):
        """Raises a UserError where the value that `cfg.options` gives is out of range."""
        value = read_options(cfg.options).get(self.name)
        if value is None:
            return
        if not self.least <= value <= self.most:
            raise UserError(f"{self.name} is {value}: give {self.least} to {self.most:,}")
        if self.within and value > (most := getattr(cfg, self.within)):
            raise UserError(f"{self.name} {value} is beyond model.{self.within} {most}: give less")

    def __str__(self) -> str:
        most = f"model.{self.within}" if self.within else f"{self.most:,}"
        return f"{self.name} ({self.about}; {self.least} to {most}; default {self.default})"
