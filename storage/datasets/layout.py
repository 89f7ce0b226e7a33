"""Where things lie in a dataset: every name that this program gives, said once."""

from __future__ import annotations

import re
from typing import Final

from storage.datasets.plan import shard_name
from storage.objects.location import Location

_TABLE: Final = r"/\d{8,}\.parquet"
_ARRAY: Final = r"/(?:zarr\.json|c/\d+(?:/0){3})"
_BELOW: Final = {
    "zarr.json": "",
    "raw": _ARRAY,
    "srgb": _ARRAY,
    "samples": _TABLE,
    "rejects": _TABLE,
    "plan": _TABLE,
    "index": r"/\w+\.parquet",
    "index.parquet": "",
    "listings": r"/\d{6}\.(?:json|parquet)",
    "versions": r"/\d{6}\.json",
    "tags": r"/[^/]+\.json",
    "labels": r"/[0-9a-f]{64}\.parquet",
    "reports": r"/\d{6}\.html",
    "lease": r"/\d{6}\.json",
}

OWN_NAMES: Final = frozenset(_BELOW)
"""What lies directly in a dataset."""

_OWN: Final = re.compile("|".join(f"{re.escape(name)}{below}" for name, below in _BELOW.items()))


def is_own(name: str) -> bool:
    """Tell whether this program gives such a name, within the dataset; others may put their own files beside."""
    return _OWN.fullmatch(name) is not None


def is_part(name: str) -> bool:
    """Tell whether it is a local file that was never finished, in a folder of the dataset's own."""
    *folders, last = name.split("/")
    return last.startswith(".") and last.endswith(".part") and (not folders or folders[0] in OWN_NAMES)


def object_location(dataset: Location, name: str, shard: int) -> Location:
    """Return where a shard's object lies: ``raw``, ``srgb``, ``samples`` or ``rejects``."""
    if name in {"raw", "srgb"}:
        return dataset.join(name, "c", str(shard), "0", "0", "0")
    return dataset.join(name, shard_name(shard))
