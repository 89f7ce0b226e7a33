"""The process that becomes the local Prefect server: ``python -m flows.servers.process PORT PARENT_PID|keep``."""

import ctypes
import os
import signal
import sys

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
    prefect = [sys.executable, "-m", "prefect", "server", "start", "--analytics-off"]
    os.execv(sys.executable, [*prefect, "--host", "127.0.0.1", "--port", str(port)])  # noqa: S606 -- no shell wanted


if __name__ == "__main__":
    serve(int(sys.argv[1]), None if sys.argv[2] == "keep" else int(sys.argv[2]))
