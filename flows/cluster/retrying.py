"""Tasks on the workers: their results lie in the dataset alone, and which failed ones the same worker tries again."""

from typing import Any, Final

from prefect import State, Task
from prefect.cache_policies import NO_CACHE
from prefect.tasks import exponential_backoff

from aura.errors import StorageAccessError, StorageError

_RETRIES: Final = 4
_FIRST_RETRY_S: Final = 1.0


def worth_retrying(_task: Task[..., Any], _run: Any, state: State[Any]) -> bool:
    """Tell whether trying again may help: what the storage refused, it may grant a moment later; wrong keys stay so."""
    return isinstance(state.data, StorageError) and not isinstance(state.data, StorageAccessError)


ON_WORKERS: Final[dict[str, Any]] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": _RETRIES,
    "retry_delay_seconds": exponential_backoff(_FIRST_RETRY_S),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": worth_retrying,
}
"""Options of Prefect's ``task`` for work that a Dask worker does."""
