"""The process that computes: takes orders from a pipe, tells how far it is, and gives results.

It lives beside napari and not inside it, because loading torch holds the interpreter for a second at a time, and
because a process can always be ended: for Cancel, for *Unload model*, or by a system short of memory.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from typing import Any

from napari_medldm.ipc import receive, send


def main() -> None:
    """Serve until the pipe closes."""
    take, give = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not come between the messages
    if hasattr(os, "nice"):
        os.nice(5)  # the window comes first
    orders: queue.Queue[Any] = queue.Queue()
    stop = threading.Event()

    def listen() -> None:
        while True:
            try:
                order = receive(take)
            except (EOFError, OSError):
                os._exit(0)  # napari is gone, whatever we were doing
            if order == "stop":
                stop.set()
            else:
                # Here and not where orders are carried out: a stop may come right behind its order.
                stop.clear()
                orders.put(order)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        send(give, answer(orders.get(), stop, give))


def answer(order: Any, stop: threading.Event, give: Any) -> tuple[str, Any]:
    """Carry out one order; never raises."""
    from medldm.errors import Cancelled
    from napari_medldm.jobs import ASKED, carry_out, sentence

    def report(done: int, total: int, what: str) -> None:
        if stop.is_set():
            raise Cancelled("cancelled")
        send(give, ("progress", (done, total, what)))

    def between_layers(module: Any, _: Any) -> None:
        if stop.is_set():
            raise Cancelled("cancelled")

    hook = None
    try:
        if order.verb not in ASKED:
            send(give, ("progress", (0, 1, "loading torch")))
            from torch.nn.modules.module import register_module_forward_pre_hook

            # A tile takes seconds on a CPU; a layer takes milliseconds.
            hook = register_module_forward_pre_hook(between_layers)
            send(give, ("progress", (0, 1, "loading the model")))
        return "result", carry_out(order, report)
    except Exception as problem:
        return ("stopped", None) if isinstance(problem, Cancelled) else ("error", sentence(problem))
    finally:
        if hook is not None:
            hook.remove()


if __name__ == "__main__":
    sys.stdin = open(os.devnull)  # noqa: SIM115
    main()
