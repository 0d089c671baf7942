"""Options that only some variants have. A class declares them; `ModelConfig.options` sets them by name.

BLOCK = Option("attention_block", 16, "positions in a block", letter="W")

class BigBirdAttention(nn.Module):
    options = (BLOCK,)
    ...
    W = BLOCK.of(self.cfg)
"""

from typing import NamedTuple

from kgpt_jax.config import ModelConfig, UserError, read_options


class Option(NamedTuple):
    """A whole number that is a setting of some variants.

    Attributes:
      name: its name in `ModelConfig.options`.
      default: its value if `ModelConfig.options` does not set it.
      about: its meaning, in one line.
      letter: its letter in the class's `cost`; "" if the cost does not depend on it.
      least: the smallest value that is allowed.
      most: the largest value that is allowed.
      within: a field of `ModelConfig` whose value is another upper limit; "" for none. The default may exceed
        it, so that one default serves models of every size.
    """

    name: str
    default: int
    about: str
    letter: str = ""
    least: int = 1
    most: int = 1_000_000
    within: str = ""

    def of(self, cfg: ModelConfig) -> int:
        """Returns the option's value in `cfg.options`, or the default."""
        return read_options(cfg.options).get(self.name, self.default)

    def check(self, cfg: ModelConfig):
        """Raises a UserError if the option's value in `cfg.options` is out of range."""
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
