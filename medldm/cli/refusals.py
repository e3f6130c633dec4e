"""What an operating system refuses, as a sentence with an exit code."""

from __future__ import annotations

import errno
import os

from medldm.errors import InputError, MedldmError, ResourceError, UsageError

# What a file system says of a place that was named, and no mistake of ours; what helps.
PLACES = {
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EACCES: "Check its permissions.",
    errno.EPERM: "Check its permissions.",
    errno.EROFS: "Choose a place that can be written to.",
    errno.ENOTDIR: "Check the path.",
    errno.ELOOP: "Its links lead in a circle.",
}
# What a disk or a network says that failed.
FAILING = (errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ETIMEDOUT, errno.ENOTCONN)


def of_the_system(problem: OSError) -> MedldmError | None:
    """What a file system refused, as a sentence; None for what may be a mistake of ours.

    Parameters
    ----------
    problem : raised outside of where results are written, which has sentences of its own
    """
    from medldm.io.atomic import FULL  # which loads NumPy, and `--help` should not

    place = os.fsdecode(problem.filename) if isinstance(problem.filename, str | bytes | os.PathLike) else ""
    if problem.errno in FULL:
        return ResourceError(
            f"The disk is full{f': {place} was not written' * bool(place)}. Free some space, then run it again."
        )
    if problem.errno in FAILING:
        return InputError(
            f"{place or 'A file'} cannot be read or written: {problem.strerror}. Check the disk or network."
        )
    if problem.errno in PLACES and place:
        return UsageError(f"{place} cannot be used: {problem.strerror}. {PLACES[problem.errno]}")
    return None
