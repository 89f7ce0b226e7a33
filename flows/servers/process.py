"""The process that becomes the local Prefect server: ``python -m flows.servers.process PORT PARENT_PID|keep``."""

import ctypes
import os
import runpy
import signal
import sys
from typing import Any

from sqlalchemy import Engine, event

_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def serve(port: int, parent_pid: int | None) -> None:
    """Become the server; it ends with its parent, however that ends, unless it is kept.

    Args:
        port: port on the loopback address.
        parent_pid: process to end with; None to outlive it.
    """
    if parent_pid is not None and sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)  # its database survives that, too
        if os.getppid() != parent_pid:  # the parent was gone before the request was in place
            return
    event.listen(Engine, "before_cursor_execute", _write_in_turn, retval=True)
    sys.argv = ["prefect", "server", "start", "--analytics-off", "--host", "127.0.0.1", "--port", str(port)]
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)


def _write_in_turn(
    _connection: object, _cursor: object, statement: str, parameters: Any, *_: object
) -> tuple[str, Any]:
    """Have a transaction wait for its turn to write where it begins.

    SQLite refuses one at once that has read before another wrote and now wants to write, too: "database is locked".
    Prefect then answers 503, and an automation whose four attempts meet that is forgotten: nobody is told of a failure.
    """
    return ("BEGIN IMMEDIATE" if statement == "BEGIN DEFERRED" else statement), parameters


if __name__ == "__main__":
    serve(int(sys.argv[1]), None if sys.argv[2] == "keep" else int(sys.argv[2]))
