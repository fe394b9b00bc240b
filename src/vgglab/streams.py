"""Standard output and standard error whose reader may go: a pager that ends, a terminal's end."""

import errno
import io
import os
import sys
from typing import Any

_GONE = (errno.EPIPE, errno.EIO)  # of a pipe, of a terminal
_UNREAD = 128 + 13  # what a shell makes of SIGPIPE: the end of Unix tools that nobody reads


def outlive_readers(*, goes_on: bool) -> None:
    """Write to nobody, from when nobody reads any more, instead of failing.

    Args:
        goes_on: without standard output, too. Else the process then ends, quietly, as Unix tools
            do: what it would find out nobody wants to know.
    """
    sys.stdout = _outliving(sys.stdout, ends=not goes_on)
    sys.stderr = _outliving(sys.stderr, ends=False)


def _outliving(stream: object, *, ends: bool) -> io.TextIOWrapper:
    if stream is None:  # closed before this process began
        return open(os.devnull, "w")
    # Not a test's, and not one of these.
    is_pythons = type(stream) is io.TextIOWrapper and stream in (sys.__stdout__, sys.__stderr__)
    if not is_pythons:
        return stream  # type: ignore[return-value]
    assert isinstance(stream, io.TextIOWrapper)
    stream.flush()
    raw: Any = _Outliving(stream.fileno(), ends)
    return io.TextIOWrapper(
        raw if stream.write_through else io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


class _Outliving(io.FileIO):
    def __init__(self, descriptor: int, ends: bool) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._ends = ends

    def write(self, data: bytes) -> int:  # type: ignore[override]
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            nobody = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nobody, self.fileno())  # also for the processes that this one starts
            os.close(nobody)
            if self._ends:
                raise SystemExit(_UNREAD) from None
            return len(data)
