"""Python objects through a pipe, arrays as they lie in memory: pickle 5 with its buffers beside it.

Both ends are processes of ours, joined by an anonymous pipe that nobody else can write to; nothing that comes from a
file or a network is ever unpickled.
"""

from __future__ import annotations

import pickle
import struct
from typing import Any, BinaryIO

import numpy as np

AT_ONCE = 1 << 20  # bytes; short enough that whoever waits for the interpreter gets its turn


def send(pipe: BinaryIO, message: Any) -> None:
    """Write one message.

    Parameters
    ----------
    pipe : open for writing
    message : anything that pickles
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(message, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    pipe.write(struct.pack(f"<q{len(parts)}q", len(parts), *(part.nbytes for part in parts)))
    for part in parts:
        for start in range(0, part.nbytes, AT_ONCE):
            pipe.write(part[start : start + AT_ONCE])
    pipe.flush()


def receive(pipe: BinaryIO) -> Any:
    """Read one message.

    Raises
    ------
    EOFError
        The other end is closed.
    """
    (count,) = struct.unpack("<q", _exactly(pipe, 8))
    sizes = struct.unpack(f"<{count}q", _exactly(pipe, 8 * count))
    head, *buffers = [_exactly(pipe, size) for size in sizes]
    return pickle.loads(head, buffers=buffers)


def _exactly(pipe: BinaryIO, size: int) -> memoryview:
    # np.empty and not bytearray: nobody zeroes hundreds of megabytes while holding the interpreter.
    there: memoryview = np.empty(size, np.uint8).data
    done = 0
    while done < size:
        got = pipe.readinto(there[done : done + AT_ONCE])  # type: ignore[attr-defined]
        if not got:
            raise EOFError("the other end is closed")
        done += got
    return there
