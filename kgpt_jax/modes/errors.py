"""Errors that a user can mend, as one line each: what is wrong, and the way out."""

import errno
import re

from kgpt_jax.config import UserError

DISK_TROUBLE = {
    getattr(errno, name)
    for name in "ENOSPC EDQUOT EFBIG EROFS EIO EACCES EPERM EMFILE".split()
    if hasattr(errno, name)  # Windows lacks some
}
NO_MEMORY = re.compile("RESOURCE_EXHAUSTED|out of memory", re.IGNORECASE)  # as JAX says it


def explanation(error: Exception) -> str:
    """Returns one line about an error that the user can mend, "" for any other."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in DISK_TROUBLE:
        where = f"cannot use {error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}; the same command goes on from the newest checkpoint"
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
