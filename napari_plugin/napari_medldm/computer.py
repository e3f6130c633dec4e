"""One computing process, seen from napari: messages go in and come out through two threads, neither of which polls."""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from medldm.system import set_thread_defaults
from napari_medldm.ipc import receive, send


class Computer:
    """A process that carries out one order at a time.

    All functions are called from threads of its own.

    Parameters
    ----------
    came : gets (kind, value) of each message
    ended : called once, when the process has ended; gets what made its messages unreadable, else None
    refused : gets what made a message impossible to send
    """

    def __init__(
        self,
        came: Callable[[Computer, str, Any], None],
        ended: Callable[[Computer, Exception | None], None],
        refused: Callable[[Computer, Exception], None],
    ) -> None:
        self._came, self._ended, self._refused = came, ended, refused
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(folder for folder in sys.path if folder)}
        set_thread_defaults(environment)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "napari_medldm.serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self.closed = False  # set by its owner: no more orders
        self.killed = False
        self._outbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.listener = threading.Thread(target=self._listen, daemon=True)
        self.listener.start()
        threading.Thread(target=self._write, daemon=True).start()

    def send(self, message: Any) -> None:
        """Send a message; returns at once, because hundreds of megabytes take a while."""
        self._outbox.put(message)

    def kill(self) -> None:
        """End the process, whatever it does."""
        self.killed = True
        self.process.kill()

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                send(self.process.stdin, message)  # type: ignore[arg-type]
            except OSError:
                return  # the process has ended, and its listener says so
            except Exception as problem:
                self._refused(self, problem)
            del message  # a copy of a scan; nobody needs it while this waits for the next

    def _listen(self) -> None:
        unreadable = None
        try:
            while True:
                self._came(self, *receive(self.process.stdout))  # type: ignore[arg-type]
        except (EOFError, OSError):
            pass
        except Exception as problem:  # half a message was read, and what comes next makes no sense
            unreadable = problem
            self.kill()
        self.process.wait()
        self._outbox.put(None)
        self._ended(self, unreadable)
