"""Turns errors that a user can correct into one line that says what is wrong and what to do."""

import errno
import re

from kgpt_jax.config import UserError

DISK_TROUBLE = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EROFS EIO EACCES EPERM EMFILE".split()
    if hasattr(errno, name)  # Windows lacks some
}
BAD_PATH = {errno.ENAMETOOLONG, errno.ENOTDIR, errno.ELOOP}
NO_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)  # in the messages of JAX


def explanation(error: Exception) -> str:
    """Returns a one-line explanation of an error that the user can correct, "" for any other error."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_TROUBLE | BAD_PATH:
        where = f"cannot use {error.filename}: " if error.filename else ""
        resumed = "" if error.errno in BAD_PATH else "; a training resumes from its newest checkpoint"
        return f"{where}{error.strerror}{resumed}"
    if isinstance(error, UnicodeEncodeError):
        letter = error.object[error.start]
        return f"{letter!a} cannot be written in {error.encoding}: set PYTHONIOENCODING=utf-8"
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # until Python 3.12
        return f"{error}: give another path"
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "JaxRuntimeError"
        and NO_MEMORY.search(str(error))
    ):
        said = (str(error).splitlines() or ["it does not say how much was asked for"])[0]
        return (
            f"out of memory ({said[:200]}): lower the stage's batch_size or epochs, or raise its "
            "microbatches; lower model.n_embd, model.n_layer or n_seeds; ask for "
            "fewer --beams or --num_samples"
        )
    return ""
