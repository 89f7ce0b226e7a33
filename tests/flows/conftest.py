"""A real Prefect server for the whole session, and photographs small enough to be quick."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server import Server, data_folder, prefect_server


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One local Prefect server that every flow of the session reports to, in a folder of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AURA_HOME", str(tmp_path_factory.mktemp("home")))
        patch.delenv("PREFECT_API_URL", raising=False)
        with prefect_server() as running:
            yield running


@pytest.fixture
def home(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own, no Prefect server configured.

    It holds a copy of the session's database, since making all its tables anew takes many seconds.
    """
    folder = tmp_path / "home"
    (folder / "prefect").mkdir(parents=True)
    with (
        contextlib.closing(sqlite3.connect(data_folder() / "prefect" / "prefect.db")) as source,
        contextlib.closing(sqlite3.connect(folder / "prefect" / "prefect.db")) as copy,
    ):
        source.backup(copy)
    monkeypatch.setenv("AURA_HOME", str(folder))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return folder
