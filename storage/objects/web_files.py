"""Files of web servers, which may say anything of a file's length: no more is read than was asked for."""

from __future__ import annotations

from typing import Any, Final

_PARTIAL_CONTENT: Final = 206  # RFC 9110, section 15.3.7


def read_web_file(system: Any, url: str, start: int, stop: int) -> bytes:
    """Read a file's bytes from ``start`` up to ``stop``, and hold no more of it, however much the server sends.

    Args:
        system: fsspec's file system of the web.
        url: of the file.
        start: first byte; from 0 on, the server need not know of ranges.
        stop: the byte after the last.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: the server does not give ranges.
        aiohttp.ClientError: it refused.
    """
    # told a size and no blocks, fsspec asks nothing beforehand and streams
    options: dict[str, Any] = {"block_size": 0, "size": 1}
    if start:
        options["headers"] = {"Range": f"bytes={start}-{stop - 1}"}
    found = bytearray()
    with system.open(url, **options) as file:
        if start and file.r.status != _PARTIAL_CONTENT:
            raise OSError("its server sends whole files only, and a part is needed")
        while len(found) < stop - start and (piece := file.read(stop - start - len(found))):
            found += piece
    return bytes(found)
