"""Which failed tasks the same worker shall try again."""

from typing import Any

from prefect import State, Task

from aura.errors import StorageAccessError, StorageError


def worth_retrying(_task: Task[..., Any], _run: Any, state: State[Any]) -> bool:
    """Tell whether trying again may help: what the storage refused, it may grant a moment later; wrong keys stay so."""
    return isinstance(state.data, StorageError) and not isinstance(state.data, StorageAccessError)
