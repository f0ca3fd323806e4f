"""One writer of a file at a time; the system frees the lock when its process ends."""

from __future__ import annotations

from typing import BinaryIO

try:
    import fcntl

    def _lock(file: BinaryIO) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

except ImportError:  # Windows
    import msvcrt

    BEYOND = 2**31 - 2  # a byte that no result will ever lie at, for others cannot read it

    def _lock(file: BinaryIO) -> None:
        file.seek(BEYOND)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)


HELD = (BlockingIOError, PermissionError)  # what systems raise where somebody has the lock


def try_lock(file: BinaryIO) -> bool:
    """Lock an open file until it is closed; False where somebody else has it.

    A file system that knows no locks is taken as it is.
    """
    try:
        _lock(file)
    except HELD:
        return False
    except OSError:
        pass
    return True
