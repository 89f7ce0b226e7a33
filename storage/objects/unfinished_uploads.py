"""Uploads in parts that a killed process began on S3 and nobody will end: in no listing, but paid for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fsspec

from storage.objects.file_systems import storage_options
from storage.objects.location import Location
from storage.objects.refusals import refusals


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload that was begun and not ended.

    Attributes:
        name: of the object that it would have become, within the place that was looked through.
        identity: what the storage calls it.
    """

    name: str
    identity: str


def unfinished_uploads(place: Location) -> list[Upload]:
    """Find the uploads below a place that were not ended, by name; none where the storage knows no such thing.

    Raises:
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    if place.scheme not in {"s3", "s3a"}:
        return []
    bucket, prefix = _bucket_and_prefix(place)
    found: list[Upload] = []
    more: dict[str, str] = {}
    with refusals(place.url, "list the unfinished uploads of"):
        while True:
            page = _s3(place).call_s3("list_multipart_uploads", Bucket=bucket, Prefix=prefix, **more)
            uploads = [each for each in page.get("Uploads", []) if each["Key"].startswith(prefix)]
            found += [Upload(each["Key"].removeprefix(prefix), each["UploadId"]) for each in uploads]
            if not page.get("IsTruncated"):
                return sorted(found, key=lambda each: each.name)
            more = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort_upload(place: Location, upload: Upload) -> None:
    """Have the storage throw away what it has of an upload; only who holds the dataset's lease may.

    Raises:
        StorageAccessError: the credentials were refused.
        StorageError: the storage refused.
    """
    bucket, prefix = _bucket_and_prefix(place)
    with refusals(place.url, "delete"):
        _s3(place).call_s3("abort_multipart_upload", Bucket=bucket, Key=prefix + upload.name, UploadId=upload.identity)


def _bucket_and_prefix(place: Location) -> tuple[str, str]:
    bucket, _, prefix = place.url.split("://", 1)[1].partition("/")
    return bucket, f"{prefix}/" if prefix else ""


def _s3(place: Location) -> Any:
    return fsspec.filesystem(place.scheme, **storage_options(place.scheme))
