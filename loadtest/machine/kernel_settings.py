"""Sets what is in the way of a run, and puts it back: for who asked for that, never by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

__all__ = ["kernel_settings"]

_SYS: Final = Path("/proc/sys")


@contextmanager
def kernel_settings(settings: Sequence[str], *, root: Path = _SYS) -> Iterator[None]:
    """Have these `key=value` settings inside; what was there before is put back afterwards, last one first.

    Raises OSError (PermissionError without the right to) that names the file when one cannot be set; none is set then.
    """
    with ExitStack() as stack:
        for setting in settings:
            key, _, value = setting.partition("=")
            path = root / key.replace(".", "/")
            before = path.read_text()
            try:
                path.write_text(value)
            except OSError as exc:  # of a value the kernel does not take, it does not know the file
                raise type(exc)(exc.errno, exc.strerror, str(path)) from exc
            stack.callback(path.write_text, before)
        yield
