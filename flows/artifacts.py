"""What a run leaves in the Prefect UI: progress that moves, quality figures, a contact sheet, a summary."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.pictures import DIFFERENCE_GAIN, Triptych, caption, contact_sheet, data_uri
from flows.quality import Quality, quality_row

_UPDATE_EVERY_S: Final = 1.0
_SHEET_SIDE_PX: Final = 200
_SHEET_COLUMNS: Final = "source | synthesized RAW, rendered | difference, exposure and tone matched"


def artifact_key(kind: str, dataset_url: str) -> str:
    """Return the key of an artifact: small letters, digits and dashes, the same in every run of a dataset."""
    name = re.sub(r"[^a-z0-9]+", "-", dataset_url.rstrip("/").rsplit("/", 1)[-1].lower()).strip("-")
    return f"{kind}-{name or 'dataset'}"


@dataclass
class ProgressArtifact:
    """A progress bar in the UI, moved at most once a second so that the server is not kept busy by it."""

    artifact_id: UUID
    total: int
    _moved_at: float = field(default=0.0)

    @classmethod
    def start(cls, dataset_url: str, total: int, done: int) -> "ProgressArtifact":
        """Create the bar for ``total`` shards, ``done`` of which are committed."""
        artifact_id = create_progress_artifact(
            progress=_percent(done, total),
            key=artifact_key("progress", dataset_url),
            description=_progress_text(done, total),
        )
        return cls(artifact_id, total)  # type: ignore[arg-type]  # the call is synchronous here and gives the id

    def move(self, done: int) -> None:
        """Show that ``done`` shards are committed."""
        if done < self.total and time.monotonic() - self._moved_at < _UPDATE_EVERY_S:
            return
        self._moved_at = time.monotonic()
        update_progress_artifact(
            self.artifact_id, progress=_percent(done, self.total), description=_progress_text(done, self.total)
        )


def leave_quality(dataset_url: str, quality: Quality) -> None:
    """Leave a table with a row for each measure."""
    create_table_artifact(
        table=[quality_row(distribution) for distribution in quality.distributions],
        key=artifact_key("quality", dataset_url),
        description=f"Quality of the {quality.samples.num_rows} samples of {dataset_url}.",
    )


def leave_contact_sheet(dataset_url: str, pictured: Sequence[Triptych]) -> None:
    """Leave a picture of some samples; it lies in the artifact itself, so the UI needs nothing else to show it."""
    picture = data_uri(contact_sheet(pictured, _SHEET_SIDE_PX), max_side=4096)
    lines = [
        f"### {_SHEET_COLUMNS} (x{DIFFERENCE_GAIN})",
        f"![From the worst to the best sample, each row: {_SHEET_COLUMNS}]({picture})",
        *(f"{place}. {caption(sample)}" for place, sample in enumerate(pictured, 1)),
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


def _progress_text(done: int, total: int) -> str:
    return f"{done} of {total} shards committed"
