import uuid
from pathlib import Path

import fsspec

from storage.objects.file_systems import storage_options
from storage.objects.location import locate
from storage.objects.unfinished_uploads import abort_upload, unfinished_uploads
from tests.conftest import S3Server


def test_uploads_that_nobody_ended_are_found_and_thrown_away(s3_environment: S3Server) -> None:
    root = f"s3://{s3_environment.bucket}/{uuid.uuid4().hex}"
    place, other = locate(root), locate(f"{root}-of-another")
    assert unfinished_uploads(place) == []
    s3 = fsspec.filesystem("s3", **storage_options("s3"))
    for each in (place.join("raw", "c", "0"), other.join("raw", "c", "1")):
        bucket, key = each.url.removeprefix("s3://").split("/", 1)
        begun = s3.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
        s3.call_s3(
            "upload_part", Bucket=bucket, Key=key, UploadId=begun["UploadId"], PartNumber=1, Body=b"x" * (5 << 20)
        )
    (found,) = unfinished_uploads(place)
    assert found.name == "raw/c/0"
    abort_upload(place, found)
    assert unfinished_uploads(place) == []
    assert len(unfinished_uploads(other)) == 1


def test_a_folder_has_none(tmp_path: Path) -> None:
    assert unfinished_uploads(locate(tmp_path)) == []
