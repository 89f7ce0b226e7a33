import uuid
from pathlib import Path

import pytest

from storage.objects.location import Location, locate
from tests.conftest import S3Server
from tests.storage.objects.conformance import StorageTests


class TestLocal(StorageTests):
    examples = 12

    @pytest.fixture
    def place(self, tmp_path: Path) -> Location:
        return locate(tmp_path / "place")


class TestS3(StorageTests):
    examples = 5

    @pytest.fixture
    def place(self, s3_environment: S3Server) -> Location:
        return locate(f"s3://{s3_environment.bucket}/{uuid.uuid4().hex}")


class TestMemory(StorageTests):
    examples = 25

    @pytest.fixture
    def place(self) -> Location:
        return locate(f"memory://{uuid.uuid4().hex}/place")
