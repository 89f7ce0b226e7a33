"""What a run leaves in the Prefect UI: progress that moves, quality figures, a contact sheet, a summary."""

import hashlib
import os
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit
from uuid import UUID

from prefect import get_run_logger
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.progress import duration
from flows.reports.contact_sheet import COLUMNS, contact_sheet
from flows.reports.facts import Reject
from flows.reports.pictures import Triptych, caption, data_uri
from flows.reports.quality import GateCheck, Quality, quality_row
from flows.shards.shard import ShardReport

_UPDATE_EVERY_S: Final = 1.0
_LOG_EVERY_S: Final = 30.0
_SHEET_SIDE_PX: Final = 200


def artifact_key(kind: str, url: str) -> str:
    """Return the key of an artifact, the same in every run of a dataset and of no other: ``quality-street-4f21b7``.

    Small letters, digits and dashes are all that Prefect takes: the last part of the place names it for people, the
    first digits of the SHA-256 of the whole tell it from others of that name.
    """
    whole = url.rstrip("/")
    name = re.sub(r"[^a-z0-9]+", "-", whole.rsplit("/", 1)[-1].lower()).strip("-")
    return f"{kind}-{name or 'dataset'}-{hashlib.sha256(os.fsencode(whole)).hexdigest()[:6]}"


@dataclass
class ProgressArtifact:
    """A progress bar in the UI, moved at most once a second so that the server is not kept busy by it.

    Its words, which also go to the run's log twice a minute, say what is made, how fast, and when it will be done.
    """

    artifact_id: UUID
    total: int
    made_before: int
    _samples: int = 0
    _rejects: int = 0
    _pixels: int = 0
    _started_at: float = field(default_factory=time.monotonic)
    _moved_at: float = 0.0
    _logged_at: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, dataset_url: str, total: int, done: int) -> "ProgressArtifact":
        """Create the bar for ``total`` shards, ``done`` of which are committed."""
        artifact_id = create_progress_artifact(
            progress=_percent(done, total),
            key=artifact_key("progress", dataset_url),
            description=f"{done} of {total} shards committed",
        )
        return cls(artifact_id, total, done)  # type: ignore[arg-type]  # the call is synchronous and gives the id

    def move(self, done: int, report: ShardReport) -> None:
        """Show that ``done`` shards are committed, the last of them as reported."""
        self._samples += report.samples
        self._rejects += report.rejects
        self._pixels += report.pixels
        now = time.monotonic()
        if done < self.total and now - self._moved_at < _UPDATE_EVERY_S:
            return
        self._moved_at = now
        said = self._words(done, now - self._started_at)
        update_progress_artifact(self.artifact_id, progress=_percent(done, self.total), description=said)
        if now - self._logged_at >= _LOG_EVERY_S or done == self.total:
            self._logged_at = now
            get_run_logger().info("%s", said)

    def _words(self, done: int, seconds: float) -> str:
        rate = self._pixels / 1e6 / max(seconds, 1e-3)
        said = (
            f"{done:,} of {self.total:,} shards committed; this run: {self._samples:,} samples, "
            f"{self._rejects:,} rejected, {rate:.2f} megapixels of RAW a second"
        )
        if done == self.total:
            return said
        left = (self.total - done) * seconds / max(1, done - self.made_before)
        return f"{said}, about {duration(left)} left"


def leave_quality(dataset_url: str, quality: Quality) -> None:
    """Leave a table with a row for each measure."""
    create_table_artifact(
        table=[quality_row(distribution) for distribution in quality.distributions],
        key=artifact_key("quality", dataset_url),
        description=f"Quality of the {quality.samples.num_rows} samples of {dataset_url}.",
    )


def leave_gates(dataset_url: str, checks: Sequence[GateCheck]) -> None:
    """Leave a table of the recipe's gates, each with what it asks for and what was found."""
    rows = [
        {"gate": check.gate, "holds": "yes" if check.passed else "NO", "asks for": check.wanted, "found": check.found}
        for check in checks
    ]
    failed = sum(not check.passed for check in checks)
    said = f"{failed} of {len(checks)} gates fail; nothing is published" if failed else f"All {len(checks)} gates hold"
    create_table_artifact(
        table=rows or [{"gate": "none", "holds": "-", "asks for": "-", "found": "-"}],
        key=artifact_key("gates", dataset_url),
        description=f"{said}: {dataset_url}." if checks else f"The recipe of {dataset_url} has no gates.",
    )


def leave_rejects(dataset_url: str, rejects: Sequence[Reject], sources: int) -> None:
    """Leave the reasons why files gave no sample, with how many and examples of each; Markdown, so that text wraps."""
    lines = ["| reason | files |", "|---|---:|", *(f"| {reject.reason} | {reject.count} |" for reject in rejects)]
    for reject in rejects:
        lines += ["", f"#### {plain(reject.reason)}", ""]
        lines += [f"- **{plain(uri)}**: {plain(detail)}" for uri, detail in reject.examples.items()]
        if reject.count > len(reject.examples):
            lines.append(f"- and {reject.count - len(reject.examples)} more")
    rejected = sum(reject.count for reject in rejects)
    create_markdown_artifact(
        markdown="\n".join(lines) if rejects else "None.",
        key=artifact_key("rejects", dataset_url),
        description=f"{rejected} of {sources} files of the corpus gave no sample of {dataset_url}.",
    )


def leave_report(dataset_url: str, report_url: str, version: int) -> None:
    """Leave a link to the report of a version, and the command that fetches it where a browser may not."""
    lines = [
        f"### [Report of version {version}](<{web_address(report_url)}>)",
        "Where the link needs a login, or the file lies on another machine:",
        f"```sh\naura report {shlex.quote(dataset_url)} --version {version} --open\n```",
    ]
    create_markdown_artifact(
        markdown="\n\n".join(lines),
        key=artifact_key("report", dataset_url),
        description=f"Pictures, quality, noise, cameras and rejects of version {version}, in one page: {report_url}",
    )


def web_address(url: str) -> str:
    """Return where a browser finds an object: of S3 at the configured endpoint, of a disk as ``file://``."""
    parts = urlsplit(url)
    if parts.scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        path = quote(parts.path)
        if endpoint:
            place = urlsplit(endpoint)  # without what someone may have put before the host's name
            return f"{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path.rstrip('/')}/{parts.netloc}{path}"
        return f"https://{parts.netloc}.s3.amazonaws.com{path}"
    return url if parts.scheme else Path(url).as_uri()


def plain(text: str) -> str:
    """Write a name so that Markdown shows it as it is, whatever it holds."""
    return re.sub(r"([\\`*_{}\[\]()<>#+!|~&-])", r"\\\1", text).replace("\n", " ")


def leave_contact_sheet(dataset_url: str, pictured: Sequence[Triptych]) -> None:
    """Leave a picture of some samples; it lies in the artifact itself, so the UI needs nothing else to show it."""
    picture = data_uri(contact_sheet(pictured, _SHEET_SIDE_PX), max_side=4096)
    lines = [
        f"![From the worst to the best sample, each row: {', '.join(COLUMNS)}]({picture})",
        "The difference is taken after exposure and tone are matched.",
        *(f"{place}. {plain(caption(sample))}" for place, sample in enumerate(pictured, 1)),
    ]
    create_markdown_artifact(
        markdown="\n\n".join(lines),
        key=artifact_key("contact-sheet", dataset_url),
        description=f"{len(pictured)} samples of {dataset_url}, from the worst to the best.",
    )


def leave_summary(dataset_url: str, facts: Mapping[str, str], rejected: Mapping[str, int], reading: str) -> None:
    """Leave the summary of a run.

    Args:
        dataset_url: where the dataset lies.
        facts: values by title, in order.
        rejected: sources that gave no sample, by reason.
        reading: code that opens the dataset.
    """
    lines = ["| | |", "|---|---|", *(f"| {title} | {value} |" for title, value in facts.items())]
    lines += ["", "#### Rejected sources", ""]
    if rejected:
        lines += ["| reason | sources |", "|---|---:|", *(f"| {reason} | {n} |" for reason, n in rejected.items())]
    else:
        lines.append("None.")
    lines += ["", "#### Read it", "", "```python", reading, "```"]
    create_markdown_artifact(
        markdown="\n".join(lines),
        key=artifact_key("summary", dataset_url),
        description=f"What the run made of {dataset_url}.",
    )


def _percent(done: int, total: int) -> float:
    return 100.0 * done / total if total else 100.0
