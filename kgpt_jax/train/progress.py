"""What a training run shows: the line on the screen, `metrics.jsonl`, and `loss.png`.

`metrics.jsonl` has one record for each update and no times, so a resumed run's equals an unbroken one's.

Axes: `M` models that train side by side, `U` updates.
"""

import json
import logging
import math
import time
from pathlib import Path

import numpy as np

from kgpt_jax.config import UserError

log = logging.getLogger(__name__)

NUMBERS = ("step", "epoch", "lr", "tokens")  # that every record has
SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_DRAWINGS = 30.0


class Progress:
    """Reports one run. Its clock leaves out compiling; `seconds` is the time before this start."""

    def __init__(
        self,
        folder: Path,
        start_step: int,
        rates: np.ndarray,
        per_epoch: int,
        seconds: float,
        tensorboard: bool = False,
    ):
        self.folder, self.rates, self.per_epoch = folder, rates, per_epoch
        self.events = _event_writer(folder, start_step) if tensorboard else None
        self.file = _keep_metrics(folder / "metrics.jsonl", start_step)
        self.seconds_before = seconds
        self.started = self.last_line = self.last_drawn = time.perf_counter()
        self.compiling = 0.0
        self.start_step = start_step
        self.tokens = 0  # since the last line
        self.losses, self.losses_since_save = [], []
        self.skipped = 0  # updates since this start, each model's counted

    def seconds(self) -> float:
        """Returns the run's seconds of training, those before a resume included."""
        return self.seconds_before + time.perf_counter() - self.started - self.compiling

    def loss_since_save(self) -> float:
        """Returns the mean loss of the updates since it was last asked for, NaN without one."""
        mean, self.losses_since_save = _mean(self.losses_since_save), []
        return mean

    def leave_out(self, seconds: float):
        """Takes seconds of something else than training out of the clock."""
        self.compiling += seconds
        self.last_line += seconds

    def record(self, step: int, loss_MU: np.ndarray, norm_MU: np.ndarray, tokens: list[int]):
        """Takes in the updates, maybe none, that follow the first `step`; prints a line if one is due.

        Losses and norms of gradients have a row for each model. The record of an update holds the means of
        those that are finite, and which models skipped it. Tokens are those that each update has read,
        padding left out.
        """
        losses = [_mean(loss_M) for loss_M in loss_MU.T.tolist()]
        norms = [_mean(norm_M) for norm_M in norm_MU.T.tolist()]
        good_UM = (np.isfinite(loss_MU) & np.isfinite(norm_MU)).T
        made = zip(losses, norms, good_UM, tokens, strict=True)
        for number, (loss, norm, good_M, n_tokens) in enumerate(made, step + 1):
            entry = {
                "step": number,
                "epoch": self._epoch(number),
                "loss": loss,
                "lr": float(self.rates[number - 1]),
                "grad_norm": norm,
                "tokens": n_tokens,
            }
            if not good_M.any():
                entry |= {"loss": None, "grad_norm": None, "skipped": True}  # JSON has no NaN
            elif not good_M.all():
                entry["skipped_models"] = (np.flatnonzero(~good_M) + 1).tolist()
            self.skipped += int((~good_M).sum())
            self.file.write(json.dumps(entry) + "\n")
            if self.events and "skipped" not in entry:
                for name in ("loss", "lr", "grad_norm"):
                    self.events.add_scalar(name, entry[name], number)
        self.losses += losses
        self.losses_since_save += losses
        self.tokens += sum(tokens)
        self.file.flush()
        now, made = time.perf_counter(), step + len(losses)
        if self.losses and (now - self.last_line >= SECONDS_BETWEEN_LINES or made == len(self.rates)):
            self._print(made, now)

    def _print(self, step: int, now: float):
        elapsed = max(now - self.last_line, 1e-9)
        in_all = now - self.started - self.compiling
        left = in_all / max(step - self.start_step, 1) * (len(self.rates) - step)
        log.info(
            f"step {step:>{len(str(len(self.rates)))}}/{len(self.rates)}"
            f"  epoch {self._epoch(step)}/{len(self.rates) // self.per_epoch}"
            f"  loss {_mean(self.losses):.3f}  lr {self.rates[step - 1]:.2e}"
            f"  {_short(self.tokens / elapsed)} tok/s  eta {clock(left)}"
            + (f"  skipped {self.skipped}" if self.skipped else "")
        )
        self.last_line, self.losses, self.tokens = now, [], 0

    def _epoch(self, step: int) -> int:
        return (step - 1) // self.per_epoch + 1

    def draw(self):
        """Draws `loss.png` with what was recorded so far, unless it was drawn just now."""
        began = time.perf_counter()
        if began - self.last_drawn < SECONDS_BETWEEN_DRAWINGS:
            return
        self.file.flush()
        draw_loss(self.folder)
        self.last_drawn = time.perf_counter()
        self.leave_out(self.last_drawn - began)

    def close(self):
        """Closes the files and draws the whole loss."""
        self.file.close()
        draw_loss(self.folder)
        if self.events:
            self.events.close()


class NoProgress:
    """Stands in for `Progress` in all processes but the first: it reports nothing."""

    def __init__(self, *_):
        pass

    def seconds(self) -> float:
        return 0.0

    def loss_since_save(self) -> float:
        return math.nan

    def leave_out(self, seconds: float):
        pass

    def record(self, *_):
        pass

    def draw(self):
        pass

    def close(self):
        pass


def _mean(losses: list[float]) -> float:
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else math.nan


def read_metrics(path: Path) -> list[dict]:
    """Returns the records of `metrics.jsonl`, without lines that a kill or a damaged disk left unreadable."""
    records = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            # Runs of older versions have no tokens.
            numbers = {"tokens": 0, **record} if isinstance(record, dict) else {}
            if all(isinstance(numbers.get(name), int | float) for name in NUMBERS):
                records.append(record)
    return records


def _keep_metrics(path: Path, step: int):
    """Opens `metrics.jsonl` for going on after `step`: later records of a killed run are dropped."""
    kept = [json.dumps(record) + "\n" for record in read_metrics(path) if record["step"] <= step]
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_text("".join(kept), "utf-8")
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return path.open("a", encoding="utf-8")


def _event_writer(folder: Path, step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs tensorboardX: pip install tensorboardX") from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def draw_loss(folder: Path):
    """Writes `loss.png` from `metrics.jsonl`: the loss and the learning rate of every update."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    records = [record for record in read_metrics(folder / "metrics.jsonl") if record.get("loss") is not None]
    if not records:
        return
    step, loss, lr = (np.array([record[name] for record in records]) for name in ("step", "loss", "lr"))
    window = max(1, len(loss) // 100)
    smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
    figure, (top, bottom) = pyplot.subplots(
        2, 1, sharex=True, figsize=(8, 5), height_ratios=(3, 1), layout="constrained"
    )
    top.plot(step, loss, color="tab:blue", alpha=0.3, linewidth=0.8)
    top.plot(step[window - 1 :], smooth, color="tab:blue", label=f"mean of {window} updates")
    top.set(ylabel="loss (nats per character)", title=f"{folder.parent.name}, {folder.name}")
    top.legend()
    bottom.plot(step, lr, color="tab:orange")
    bottom.set(xlabel="update", ylabel="learning rate")
    figure.savefig(folder / "loss.png", dpi=120)
    pyplot.close(figure)


def clock(seconds: float) -> str:
    """Returns h:mm:ss.

    >>> clock(3725.4)
    '1:02:05'
    """
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _short(number: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.1f}{unit}"
    return f"{number:.0f}"
