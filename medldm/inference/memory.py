"""Too little memory: a sentence for people, and networks that work again once there is enough."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from medldm.errors import ResourceError, lacks_memory

T = TypeVar("T")

# Where oneDNN had no memory for the code that it generates, that error stays with the thread: every primitive which is
# not cached yet fails there from then on ("could not create a primitive"), however much memory there is again.
_spoilt = threading.local()


def or_lack_of_memory(name: str, compute: Callable[[], T]) -> T:
    """What `compute` returns; where memory runs out, a `ResourceError` that says what to do instead of torch's error.

    A later call works again if memory has become free.

    Parameters
    ----------
    name : of the scan, for the sentence
    compute : runs networks

    Raises
    ------
    ResourceError
        There is too little memory for it.
    """
    try:
        return _in_new_thread(compute) if getattr(_spoilt, "by_onednn", False) else compute()
    except (RuntimeError, MemoryError) as problem:
        if not lacks_memory(problem):
            raise
        _spoilt.by_onednn = getattr(_spoilt, "by_onednn", False) or "a primitive" in str(problem)
        raise ResourceError(
            f"{name} needs more memory than is free. Try --tile 192, another --device, or close other programs."
        ) from problem


def _in_new_thread(compute: Callable[[], T]) -> T:
    """What `compute` returns or raises; an interrupt of this thread leaves the new one behind."""
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(compute())
        except BaseException as problem:
            result.set_exception(problem)

    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError as problem:  # no memory for the thread's stack
        raise MemoryError from problem
    return result.result()
