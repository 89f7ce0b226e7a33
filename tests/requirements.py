"""What a test needs beyond Python; it says so when it skips."""

import shutil

import pytest

_DEBIAN_PACKAGE = {
    "exiftool": "libimage-exiftool-perl",
    "darktable-cli": "darktable",
    "rawtherapee-cli": "rawtherapee",
    "dcraw": "dcraw",
}


def needs(program: str) -> pytest.MarkDecorator:
    """Skip where a program is not installed."""
    reason = f"needs {program}, which is not installed (Debian: {_DEBIAN_PACKAGE[program]})"
    return pytest.mark.skipif(shutil.which(program) is None, reason=reason)
