"""Commands about what is stored: versions and their differences, whether it is whole, what may be removed."""
# ruff: noqa: PLC0415 -- imports of a command happen when it runs, so that help is there at once

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flows.commands.console import command, progress_bars, refuse, say, say_pairs, say_table

if TYPE_CHECKING:
    from storage.datasets.verification import Verification

Dataset = Annotated[str, typer.Argument(help="A dataset: folder or s3:// prefix.")]

_SHOWN = 10
_BY_HAND = "Restore these objects from a copy, or remove what does not belong there."


def add_store_commands(commands: typer.Typer) -> None:
    """Register the commands of this file."""
    for each in (status, versions, diff, label, annotate, report, verify, gc):
        commands.command()(each)


def status(
    dataset: Dataset,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Show it anew every few seconds while a run is on.")] = False,
) -> None:
    """Show how far a dataset is: progress, pace, time left, rejects, who writes it, the last version.

    It reads the store alone, so it works from any machine, while a run is on and after it died.

    Example: aura status s3://bucket/street --watch
    """
    from flows.commands.status import show_status, status_json, watch_status

    if as_json:
        say(status_json(dataset))
    elif watch:
        watch_status(dataset)
    else:
        show_status(dataset)


def versions(
    dataset: Dataset,
    tag: Annotated[str | None, typer.Option(help="Give a version this name, which never moves.")] = None,
    version: Annotated[str | None, typer.Option(help="The version to tag; the newest if left out.")] = None,
) -> None:
    """List the published versions of a dataset, or tag one.

    Example: aura versions s3://bucket/street --tag paper --version 3
    """
    from storage.datasets.dataset import open_dataset
    from storage.datasets.tags import list_tags, resolve_version, tag_version
    from storage.datasets.versions import list_versions, read_version

    location = open_dataset(dataset).location
    if tag is not None:
        tag_version(location, resolve_version(location, version), tag)
    numbers, tags = list_versions(location), list_tags(location)
    if not numbers:
        say(f"{location.url} has no published version yet.")
        return
    rows = []
    for number in numbers:
        published = read_version(location, number)
        names = ", ".join(sorted(name for name, tagged in tags.items() if tagged == number)) or "-"
        whole = "yes" if published.complete else "no"
        counts = (str(published.samples), str(len(published.removed)), str(len(published.shards)))
        rows.append((str(number), names, *counts, whole))
    say_table(f"Versions of {location.url}", ("version", "tags", "samples", "left out", "shards", "whole"), rows)


def diff(
    dataset: Dataset,
    first: Annotated[str, typer.Argument(help="A version, by number or tag.")],
    second: Annotated[str, typer.Argument(help="Another version, by number or tag.")],
    every: Annotated[bool, typer.Option("--all", help=f"Name every sample, not the first {_SHOWN}.")] = False,
) -> None:
    """Show which samples a version has that another has not.

    Example: aura diff s3://bucket/street 1 2
    """
    from storage.datasets.dataset import open_dataset
    from storage.datasets.tags import resolve_version
    from storage.datasets.versions import diff_versions

    opened = open_dataset(dataset)
    numbers = [resolve_version(opened.location, version) for version in (first, second)]
    found = diff_versions(opened, *numbers)
    say(f"{opened.location.url}, version {numbers[0]} to {numbers[1]}")
    say_pairs(
        {
            "added": f"{len(found.added)} samples in {found.new_shards} new shards",
            "removed": f"{len(found.removed)} samples",
            "unchanged": f"{found.unchanged} samples",
            "labels": "differ" if found.relabelled else "the same",
        }
    )
    for sign, samples in (("+", found.added), ("-", found.removed)):
        shown = samples if every else samples[:_SHOWN]
        for sample in shown:
            say(f"{sign} {sample.index}  {sample.sample_id}  {sample.source}")
        if len(shown) < len(samples):
            say(f"{sign} ... {len(samples) - len(shown)} more; --all names them")


def label(
    dataset: Dataset,
    table: Annotated[Path, typer.Argument(help="Parquet, CSV or JSON lines with a column sample_id or source_uri.")],
    tag: Annotated[str | None, typer.Option(help="A name for the version that is published.")] = None,
) -> None:
    """Give the samples labels: a new version with the same shards, none of which is rewritten.

    Every other column is a label. Labels of a photograph (source_uri) go to each of its samples. The new labels
    replace all older ones but boxes and masks (see aura annotate); older versions keep theirs.

    Example: aura label s3://bucket/street scenes.csv --tag with-scenes
    """
    from storage.datasets.dataset import open_dataset
    from storage.datasets.labels import match_labels, read_label_table, write_labels
    from storage.datasets.lease import hold
    from storage.datasets.publishing import publish_labels
    from storage.labelling.annotating import with_annotations

    with hold(dataset) as lease:
        opened = open_dataset(dataset)
        labels = with_annotations(opened, match_labels(opened, read_label_table(table)))
        lease.require()
        digest = write_labels(opened, labels)
        number = publish_labels(opened, digest, tag)
    say(f"Version {number} of {opened.location.url}: {labels.num_rows} samples labelled by {table.name}.")


def annotate(
    dataset: Dataset,
    source: Annotated[str, typer.Argument(help="A COCO .json file, or a folder of YOLO's .txt files.")],
    min_area: Annotated[
        float,
        typer.Option(help="Keep a box that a tile cuts if this share of it is left, or of the tile is filled."),
    ] = 0.25,
    frame: Annotated[
        Literal["auto", "upright", "stored"],
        typer.Option(help="Pixels the boxes were drawn on: after the EXIF orientation, before it, or as sizes tell."),
    ] = "auto",
    tag: Annotated[str | None, typer.Option(help="A name for the version that is published.")] = None,
) -> None:
    """Give the samples their photographs' boxes and masks: a new version with the same shards.

    Boxes are turned, cut and scaled to the pixels of each sample's mosaic. Run it again with mended annotations for
    the next version; older ones keep theirs. A recipe with annotations does this by itself in each run.

    Example: aura annotate s3://bucket/street instances.json --min-area 0.3
    """
    from storage.datasets.dataset import open_dataset
    from storage.datasets.history import current_index
    from storage.datasets.lease import hold
    from storage.datasets.publishing import publish_labels
    from storage.labelling.annotating import annotate as annotate_samples
    from storage.labelling.annotating import keep_annotations
    from storage.recipe import AnnotationSource

    with hold(dataset) as lease:
        opened = open_dataset(dataset)
        wanted = AnnotationSource(source=source, min_area=min_area, frame=frame)
        found = annotate_samples(opened, current_index(opened), wanted)
        lease.require()
        number = publish_labels(opened, keep_annotations(opened, found.labels), tag)
    say(f"Version {number} of {opened.location.url}: {found.objects} objects in {found.labels.num_rows} samples.")
    for reason, count in found.left_out.items():
        say(f"Left out: {count}, {reason}.")
    say_pairs({"next": f"{command()} export coco {dataset} OUT --version {number}"})


def report(
    dataset: Dataset,
    version: Annotated[str | None, typer.Option(help="A version, by number or tag; the newest if left out.")] = None,
    out: Annotated[
        Path | None, typer.Option(show_default="DATASET-VERSION.html, here", help="File to write the page to.")
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Fetch the HTML report of a version: quality, pictures, noise, cameras, rejects, provenance.

    The page lies in the dataset (reports/000001.html) and needs neither a script nor the network.

    Example: aura report s3://bucket/street --open
    """
    import webbrowser

    from flows.reports.report import fetch_report
    from storage.datasets.dataset import open_dataset
    from storage.datasets.tags import resolve_version

    opened = open_dataset(dataset)
    number = resolve_version(opened.location, version)
    page = fetch_report(opened, number)
    file = out or Path(f"{opened.location.name}-{number:06d}.html")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(page)
    say_pairs({"report": f"{file.resolve().as_uri()} ({len(page) / 1e6:.1f} MB)"})
    if show and not webbrowser.open(file.resolve().as_uri()):
        say("No browser could be started here; open the page by hand.")


def verify(
    dataset: Dataset,
    mend: Annotated[
        bool, typer.Option("--repair", help="Make exactly the damaged shards again, by the recipe.")
    ] = False,
    weights: Annotated[
        Path | None,
        typer.Option(help="Weights the dataset was made with, if not the released ones."),
    ] = None,
) -> None:
    """Check every byte of a dataset: digests, counts, and objects that belong to nothing.

    Exits with 1 and a list when something is wrong. What a stopped run left behind is no fault: it is counted.

    Example: aura verify s3://bucket/street --repair
    """
    from storage.datasets.verification import verify as verify_dataset

    with progress_bars() as listener:
        seen = verify_dataset(dataset, lambda done, total: listener("verify", done, total))
    if mend and seen.problems:
        _say_problems(seen)
        _mend(dataset, seen, weights)
        with progress_bars() as listener:
            seen = verify_dataset(dataset, lambda done, total: listener("verify", done, total))
    say(f"{seen.dataset.location.url}: {seen.objects} objects read, {seen.size_bytes / 1e6:,.1f} MB")
    if seen.leftovers:
        say(f"{len(seen.leftovers)} objects were left by a stopped run; '{command()} gc {dataset}' shows them.")
    if seen.missing_shards:
        say(f"{seen.missing_shards} planned shards are not made yet; run its synthesis again to go on.")
    if not seen.problems:
        say("Every object is as it was written.")
        return
    _say_problems(seen)
    if not mend:
        shards = any(problem.shard is not None or problem.restorable for problem in seen.problems)
        say(f"Mend it with '{command()} verify {dataset} --repair'." if shards else _BY_HAND)
    else:
        say(_BY_HAND)
    raise typer.Exit(1)


def gc(
    dataset: Dataset,
    delete: Annotated[bool, typer.Option("--delete", help="Remove them; without it they are only listed.")] = False,
) -> None:
    """Remove what no version and no run needs: what stopped runs left behind.

    Lists it first; --delete removes it, and is refused while a run writes the dataset. Finished shards, whether they
    are published or not, and files that are not of this program are never removed.

    Example: aura gc s3://bucket/street --delete
    """
    from storage.datasets.garbage import find_garbage, remove_garbage
    from storage.datasets.lease import hold, live_holder
    from storage.datasets.survey import survey
    from storage.objects.unfinished_uploads import abort_upload, unfinished_uploads

    seen = survey(dataset)
    root = seen.dataset.location
    names, uploads = find_garbage(seen), unfinished_uploads(root)
    if (names or uploads) and delete:
        with hold(dataset) as lease:
            seen = survey(dataset)  # what a run that has ended meanwhile made of it
            names, uploads = find_garbage(seen), unfinished_uploads(root)
            remove_garbage(dataset, names, lease.require)
            for upload in uploads:
                lease.require()
                abort_upload(root, upload)
    if not delete and (holder := live_holder(dataset)):
        say(f"A run is writing it now ({holder.words()}); what that has not finished yet is listed too.")
    for name in names:
        say(f"- {name}  {seen.sizes[name]:,} bytes")
    for upload in uploads:
        say(f"- {upload.name}  an upload that was not ended")
    if not names and not uploads:
        say("Nothing is there that is not needed.")
        return
    size = sum(seen.sizes[name] for name in names)
    done = "Removed" if delete else "Not needed any more, and still there:"
    say(
        f"{done} {len(names) + len(uploads)} objects, {size / 1e6:,.1f} MB."
        + ("" if delete else " Remove them with --delete.")
    )


def _mend(dataset: str, seen: "Verification", weights: Path | None) -> None:
    from flows.repair import repair
    from storage.datasets.lease import hold

    with progress_bars() as listener, hold(dataset) as lease:
        path = str(weights) if weights else None
        done = repair(seen, lease, path, lambda count, total: listener("synthesize", count, total))
    for shard, reason in done.failures.items():
        refuse(f"Shard {shard}: {reason}.")
    say(f"{len(done.shards)} shards made again, {len(done.restored)} metadata objects restored. Checking again:")


def _say_problems(seen: "Verification") -> None:
    for problem in seen.problems:
        refuse(f"{problem.name} {problem.what}")
    say(f"{len(seen.problems)} of {seen.objects} objects are not as they should be.")
