"""Reports the progress of training: log lines, `metrics.jsonl`, and `loss.png`.

`metrics.jsonl` has one record per update. Records hold no times, so that a resumed run writes the same file
as an uninterrupted one.

Axes: `E` models that train side by side, `U` updates.
"""

import json
import logging
import math
import time
from pathlib import Path

import numpy as np

from kgpt_jax.config import UserError
from kgpt_jax.store.atomic import replacing

log = logging.getLogger(__name__)

NUMBERS = ("step", "epoch", "lr", "tokens")  # fields that every record has
SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_DRAWINGS = 30.0


class Progress:
    """Reports the progress of one run, from the start of this process to its end.

    Args:
      folder: the run's folder.
      start_step: updates made before this process started.
      rates: the learning rate of every update of the run.
      per_epoch: updates in an epoch.
      seconds: seconds of training before this process started.
      tensorboard: whether to write event files for TensorBoard, too.

    Raises:
      UserError: `tensorboard` is set, and tensorboardX is not installed.
    """

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
        self.left_out = 0.0  # seconds
        self.start_step = start_step
        self.tokens = 0  # since the last line
        self.losses, self.losses_since_save = [], []  # since the last line, since the last checkpoint
        self.skipped = 0  # updates in this process, summed over the models

    def seconds(self) -> float:
        """Returns the seconds of training, including the time before a resume and excluding compilation."""
        return self.seconds_before + time.perf_counter() - self.started - self.left_out

    def loss_since_save(self) -> float:
        """Returns the mean loss of the updates since the last call, NaN if there are none."""
        mean, self.losses_since_save = _mean(self.losses_since_save), []
        return mean

    def leave_out(self, seconds: float):
        """Excludes the last `seconds` from the training time; they went into compilation or drawing."""
        self.left_out += seconds
        self.last_line += seconds

    def record(self, step: int, loss_EU: np.ndarray, norm_EU: np.ndarray, tokens: list[int]):
        """Appends updates to `metrics.jsonl`, and logs a line if the last one is long ago.

        Args:
          step: updates made before these.
          loss_EU: the loss of each model at each update, in nats per character; U may be 0. A record holds
            the mean over the models whose loss and gradient norm are finite, and the numbers of the others.
          norm_EU: the norm of the gradient.
          tokens: characters that each update has read, without padding.
        """
        finite_EU = np.isfinite(loss_EU) & np.isfinite(norm_EU)
        losses, norms = (
            [_mean(values_E) for values_E in np.where(finite_EU, values_EU, np.nan).T.tolist()]
            for values_EU in (loss_EU, norm_EU)
        )
        updates = zip(losses, norms, finite_EU.T, tokens, strict=True)
        for number, (loss, norm, finite_E, n_tokens) in enumerate(updates, step + 1):
            entry = {
                "step": number,
                "epoch": self._epoch(number),
                "loss": loss,
                "lr": float(self.rates[number - 1]),
                "grad_norm": norm,
                "tokens": n_tokens,
            }
            if not finite_E.any():
                entry |= {"loss": None, "grad_norm": None, "skipped": True}  # JSON has no NaN
            elif not finite_E.all():
                entry["skipped_models"] = (np.flatnonzero(~finite_E) + 1).tolist()
            self.skipped += int((~finite_E).sum())
            self.file.write(json.dumps(entry) + "\n")
            if self.events and "skipped" not in entry:
                for name in ("loss", "lr", "grad_norm"):
                    self.events.add_scalar(name, entry[name], number)
        self.losses += losses
        self.losses_since_save += losses
        self.tokens += sum(tokens)
        self.file.flush()
        now, step = time.perf_counter(), step + len(losses)
        if self.losses and (now - self.last_line >= SECONDS_BETWEEN_LINES or step == len(self.rates)):
            self._print(step, now)

    def _print(self, step: int, now: float):
        elapsed = max(now - self.last_line, 1e-9)
        trained = now - self.started - self.left_out
        left = trained / max(step - self.start_step, 1) * (len(self.rates) - step)
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
        """Draws `loss.png`, unless that was done less than SECONDS_BETWEEN_DRAWINGS ago."""
        began = time.perf_counter()
        if began - self.last_drawn < SECONDS_BETWEEN_DRAWINGS:
            return
        self.file.flush()
        draw_loss(self.folder)
        self.last_drawn = time.perf_counter()
        self.leave_out(self.last_drawn - began)

    def finish(self):
        """Draws the whole of `loss.png`."""
        self.file.flush()
        draw_loss(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        if self.events:
            self.events.close()


class NoProgress:
    """Replaces `Progress` in all processes but the first, and reports nothing."""

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

    def finish(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def _mean(losses: list[float]) -> float:
    """Returns the mean of the finite losses, NaN if there are none."""
    finite = [loss for loss in losses if math.isfinite(loss)]
    return sum(finite) / len(finite) if finite else math.nan


def read_metrics(path: Path) -> list[dict]:
    """Returns the records of a `metrics.jsonl`, [] if there is no such file.

    Lines that cannot be read, after a kill or on a damaged disk, are left out.
    """
    records = []
    if path.exists():
        for line in path.read_bytes().split(b"\n"):
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                continue
            # Records of older versions have no tokens.
            numbers = {"tokens": 0, **record} if isinstance(record, dict) else {}
            if all(isinstance(numbers.get(name), int | float) for name in NUMBERS):
                records.append(record)
    return records


def _keep_metrics(path: Path, step: int):
    """Opens `metrics.jsonl` to append after `step`. Drops later records, which a killed run left behind."""
    kept = [json.dumps(record) + "\n" for record in read_metrics(path) if record["step"] <= step]
    with replacing(path) as partial:
        partial.write_text("".join(kept), "utf-8")
    return path.open("a", encoding="utf-8")


def _event_writer(folder: Path, step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise UserError("--tensorboard needs tensorboardX: pip install tensorboardX") from None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)


def draw_loss(folder: Path, held_out: str = ""):
    """Writes a run's `loss.png`: the loss and the learning rate of every update, from `metrics.jsonl`.

    The texts of a batch have similar lengths, so the loss varies with the length as much as with the progress
    of the model. The bold line is therefore the mean of each whole epoch.

    Args:
      folder: the run's folder, `<variant>/<stage>`; these two names become the title.
      held_out: a second line for the title, such as how many held-out questions the finished run answers.
    """
    records = read_metrics(folder / "metrics.jsonl")
    step, epoch, lr = (np.array([record[name] for record in records]) for name in ("step", "epoch", "lr"))
    loss = np.array([record.get("loss") for record in records], float)  # NaN where every model skipped
    if not np.isfinite(loss).any():
        return
    from matplotlib.figure import Figure  # without pyplot, whose state belongs to the user

    figure = Figure(figsize=(8, 5), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    ends, means = epoch_means(step, epoch, loss)
    if 1 < len(ends) < len(step):
        top.plot(step, loss, color="tab:blue", alpha=0.3, linewidth=0.8, label="each update")
        top.plot(ends, means, color="tab:blue", linewidth=1.8, label="mean of each epoch")
        top.legend(frameon=False)
    else:
        top.plot(step, loss, color="tab:blue", linewidth=1.2)
    top.set(ylabel="loss (nats per character)", ylim=(0, 1.05 * np.nanmax(loss)))
    title = f"{folder.absolute().parent.name}, {folder.name}" + (f"\n{held_out}" if held_out else "")
    top.set_title(title, parse_math=False)
    bottom.plot(step, lr, color="tab:orange", linewidth=1.5)
    bottom.set(xlabel="update", ylabel="learning rate", ylim=(0, None))
    for axes in (top, bottom):
        axes.grid(alpha=0.25)
        axes.margins(x=0.01)
        axes.spines[["top", "right"]].set_visible(False)
    with replacing(folder / "loss.png") as partial:
        figure.savefig(partial, dpi=120, format="png")


def epoch_means(step: np.ndarray, epoch: np.ndarray, loss: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the last update and the mean loss of each epoch that is complete.

    >>> epoch_means(np.arange(1, 6), np.array([1, 1, 2, 2, 3]), np.array([4.0, 2.0, 2.0, np.nan, 9.0]))
    (array([2, 4]), array([3., 2.]))
    """
    finite = np.isfinite(loss)
    numbers, counts = np.unique(epoch, return_counts=True)
    complete = [number for number in numbers[counts == counts.max()] if finite[epoch == number].any()]
    ends = [step[epoch == number].max() for number in complete]
    means = [loss[(epoch == number) & finite].mean() for number in complete]
    return np.array(ends), np.array(means)


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
