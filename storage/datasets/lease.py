"""The lease of a dataset: at most one run writes it at a time, whatever machine the runs are on.

A lease is one small object, ``lease/000001.json``, made with create-if-absent. Its holder renews it by a heartbeat;
one that is no longer renewed runs out and may be taken over: the taker creates the next number, then removes the old
one, so that the former holder finds its own gone and stops. A holder that died on this very machine is recognised by
its process and taken over at once. A released lease is removed.

Clocks of different machines are compared, and may be wrong by any amount: a lease that seems to have run out, or to
run for longer than leases do, is watched for longer than a heartbeat takes, and is live if it is renewed meanwhile.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from aura.errors import AuraError, IntegrityError, LeaseHeldError, LeaseLostError, MissingFileError
from storage.datasets.sealed import seal, unseal
from storage.objects.location import Location, locate

log = logging.getLogger(__name__)

DURATION_S: Final = 60.0
CLOCK_MARGIN_S: Final = 5.0
_RENEWALS_PER_DURATION: Final = 4
_POLL_S: Final = 1.0
_WATCH_S: Final = DURATION_S / _RENEWALS_PER_DURATION + CLOCK_MARGIN_S
_SAME_PROCESS_S: Final = 60.0  # the system derives it from its clock, which may be set right meanwhile


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What a lease says.

    Attributes:
        number: of the lease; a taker's is one higher.
        holder: a name that nobody else has.
        host: name of the holder's machine, for people.
        machine: which machine, boot and process space the holder runs in.
        process: its process id there.
        process_started: when that process began, in seconds since 1970.
        since: when the lease was taken, in seconds since 1970.
        expires: when it ends unless it is renewed.
    """

    number: int
    holder: str
    host: str
    machine: str
    process: int
    process_started: float
    since: float
    expires: float

    def is_live(self) -> bool:
        """Tell whether the holder may still write."""
        if time.time() > self.expires + CLOCK_MARGIN_S:
            return False
        if self.machine != _machine():
            return True
        started = _process_started(self.process)
        return started is not None and abs(started - self.process_started) < _SAME_PROCESS_S

    @property
    def renewed(self) -> float:
        """When the holder was last heard of, in seconds since 1970."""
        return self.expires - DURATION_S

    def words(self) -> str:
        """Say who holds it and until when."""
        since, expires = (datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S") for at in (self.since, self.expires))
        return f"process {self.process} on {self.host}, since {since} UTC, until {expires} unless renewed"


@dataclass(frozen=True, slots=True)
class LeaseToken:
    """What a worker needs to ask whether the run that it works for still holds the lease.

    Attributes:
        dataset_url: the dataset.
        number: of the lease.
        holder: its holder.
    """

    dataset_url: str
    number: int
    holder: str

    def require(self) -> None:
        """Make sure that the run may still write.

        Raises:
            LeaseLostError: it may not.
            StorageError: the storage refused.
        """
        record = _read(locate(self.dataset_url), self.number)
        if record is None or record.holder != self.holder:
            raise _lost(self.dataset_url)


class Lease:
    """A lease that this process holds; make one with :func:`hold`."""

    def __init__(self, dataset: Location, record: LeaseRecord, duration_s: float) -> None:
        self._dataset = dataset
        self._record = record
        self._duration_s = duration_s
        self._lost = threading.Event()
        self._released = threading.Event()
        self._renewing = threading.Lock()
        self._heart = threading.Thread(target=self._beat, name="lease", daemon=True)
        self._heart.start()

    def __reduce__(self) -> tuple[type[LeaseToken], tuple[str, int, str]]:
        """Travel as a token: what is done elsewhere may ask for the lease, and only this process renews it."""
        return LeaseToken, (self._dataset.url, self._record.number, self._record.holder)

    @property
    def token(self) -> LeaseToken:
        """What workers ask with."""
        return LeaseToken(self._dataset.url, self._record.number, self._record.holder)

    @property
    def is_lost(self) -> bool:
        """Whether another run is known to have taken over."""
        return self._lost.is_set()

    def require(self) -> None:
        """Make sure that this process may write, now; call it before each write.

        Raises:
            LeaseLostError: another run has taken over.
            StorageError: the storage refused to say.
        """
        self._renew()
        if self.is_lost:
            raise _lost(self._dataset.url)

    def release(self) -> None:
        """Give the lease back; a lost one is left to who has it."""
        self._released.set()
        self._heart.join()
        with self._renewing:
            record = _read(self._dataset, self._record.number)
            if record is not None and record.holder == self._record.holder:
                _file(self._dataset, record.number).remove()
                _remove_empty_folders(self._dataset)

    def _beat(self) -> None:
        while not self._released.wait(self._duration_s / _RENEWALS_PER_DURATION) and not self.is_lost:
            # a storage that is away for a while, or refuses keys until they are renewed, is no loss; who writes asks
            with suppress(AuraError):
                self._renew()

    def _renew(self) -> None:
        with self._renewing:
            if self.is_lost:
                return
            place = _file(self._dataset, self._record.number)
            found = _read(self._dataset, self._record.number)
            if found is None or found.holder != self._record.holder:
                self._lost.set()
                return
            self._record = replace(self._record, expires=time.time() + self._duration_s)
            place.write(seal(asdict(self._record)))
            if any(other.number > self._record.number and other.is_live() for other in _records(self._dataset)):
                place.remove()  # taken between the look and the renewal
                self._lost.set()


@contextmanager
def hold(
    dataset_url: str | Location,
    *,
    wait: bool = False,
    on_wait: Callable[[str], None] | None = None,
    duration_s: float = DURATION_S,
) -> Iterator[Lease]:
    """Hold the lease of a dataset while the block runs.

    Args:
        dataset_url: the dataset, which need not exist yet.
        wait: wait for another run to end instead of being refused.
        on_wait: is told once whom it waits for.
        duration_s: for how long the lease is good without being renewed.

    Raises:
        LeaseHeldError: another run holds it, and ``wait`` is not set.
        StorageError: the storage refused.
    """
    lease = _take_in_turn(locate(dataset_url), duration_s, wait=wait, on_wait=on_wait)
    try:
        yield lease
    finally:
        try:
            lease.release()
        except AuraError as error:  # what the run came to matters more than a lease that runs out by itself
            url = lease.token.dataset_url
            log.warning("The lease of %s could not be given back, and ends by itself: %s", url, error)


def require_writable(dataset_url: str | Location, *, wait: bool = False) -> None:
    """Take the lease and give it back at once: what a run would be refused, it is refused before it is prepared.

    Args:
        dataset_url: the dataset, which need not exist yet.
        wait: wait for another run to end instead of being refused.

    Raises:
        LeaseHeldError: another run holds it, and ``wait`` is not set.
        StorageError: the storage refused: to keep the lease, or to give it up.
    """
    _take_in_turn(locate(dataset_url), DURATION_S, wait=wait, on_wait=None).release()


def _take_in_turn(dataset: Location, duration_s: float, *, wait: bool, on_wait: Callable[[str], None] | None) -> Lease:
    told = False
    while not (attempt := _take(dataset, duration_s)).mine:
        holder = attempt.holder or live_holder(dataset)
        if holder is not None:
            if not wait:
                raise _held(dataset.url, holder)
            if on_wait is not None and not told:
                on_wait(holder.words())
                told = True
        time.sleep(_POLL_S)  # object stores have no notification to wait for
    return Lease(dataset, attempt.mine, duration_s)


def live_holder(dataset_url: str | Location) -> LeaseRecord | None:
    """Tell which run holds the lease of a dataset now; None if none does.

    Raises:
        StorageError: the storage refused.
    """
    return next((record for record in _records(locate(dataset_url)) if record.is_live()), None)


def last_holder(dataset_url: str | Location) -> LeaseRecord | None:
    """Tell which run held the lease last without giving it back: the one that writes now, or one that died.

    Raises:
        StorageError: the storage refused.
    """
    return next(iter(_records(locate(dataset_url))), None)


class _Attempt(NamedTuple):
    """What an attempt to take a lease came to: mine, or who is known to hold it; neither if somebody was quicker."""

    mine: LeaseRecord | None = None
    holder: LeaseRecord | None = None


def _take(dataset: Location, duration_s: float) -> _Attempt:
    """Try once."""
    found = _records(dataset)
    holder = next((record for record in found if _holds(dataset, record)), None)
    if holder is not None:
        return _Attempt(holder=holder)
    dead = {(record.number, record.expires) for record in found}
    now = time.time()
    mine = LeaseRecord(
        number=max((_number(name) for name in dataset.join("lease").names()), default=0) + 1,
        holder=uuid.uuid4().hex,
        host=socket.gethostname(),
        machine=_machine(),
        process=os.getpid(),
        process_started=_process_started(os.getpid()) or now,
        since=now,
        expires=now + duration_s,
    )
    place = _file(dataset, mine.number)
    if not place.create(seal(asdict(mine))):
        # an answer that was lost on the way is asked for again, and then finds what it has made itself
        made = _read(dataset, mine.number)
        if made is None or made.holder != mine.holder:
            return _Attempt()
    for name in dataset.join("lease").names():
        number = _number(name)
        if number == mine.number:
            continue
        other = _read(dataset, number)
        if (
            other is not None and other.is_live() and (number, other.expires) not in dead
        ):  # somebody else began at the same moment under another number
            place.remove()
            return _Attempt()
        _file(dataset, number).remove()
    return _Attempt(mine)


def _holds(dataset: Location, record: LeaseRecord) -> bool:
    """Tell whether a run still holds its lease: by its process here, by its clock as far as that can be right."""
    left = record.expires - time.time()
    if record.machine == _machine() or -CLOCK_MARGIN_S <= left <= DURATION_S + CLOCK_MARGIN_S:
        return record.is_live()
    return _is_renewed(dataset, record)


def _is_renewed(dataset: Location, record: LeaseRecord) -> bool:
    """Watch a lease of another machine whose clock, or this one's, may be wrong."""
    until = time.monotonic() + _WATCH_S
    while time.monotonic() < until:
        time.sleep(_POLL_S)  # its holder renews it by writing, and an object store tells nobody of that
        now = _read(dataset, record.number)
        if now is None or now.expires != record.expires:
            return now is not None
    return False


def _records(dataset: Location) -> list[LeaseRecord]:
    """Read every lease there is, the highest number first; a damaged one is nobody's."""
    numbers = sorted(map(_number, dataset.join("lease").names()), reverse=True)
    return [record for number in numbers if (record := _read(dataset, number)) is not None]


def _read(dataset: Location, number: int) -> LeaseRecord | None:
    place = _file(dataset, number)
    try:
        return LeaseRecord(**unseal(place.read(), place.url))
    except (MissingFileError, IntegrityError, TypeError):
        return None


def _file(dataset: Location, number: int) -> Location:
    return dataset.join("lease", f"{number:06d}.json")


def _number(name: str) -> int:
    digits = name.removesuffix(".json")
    return int(digits) if digits.isascii() and digits.isdecimal() else 0


def _held(url: str, holder: LeaseRecord) -> LeaseHeldError:
    return LeaseHeldError(
        f"{url} is being written by another run ({holder.words()}). Run again when it has ended, or with --wait."
    )


def _lost(url: str) -> LeaseLostError:
    return LeaseLostError(
        f"Another run has taken over {url}, since this one did not renew its lease in time; it stopped before writing "
        "anything more. What was finished is kept."
    )


def _remove_empty_folders(dataset: Location) -> None:
    """Leave no empty folders where a run came to nothing; object stores have none."""
    if dataset.is_local:
        for folder in (Path(dataset.url) / "lease", Path(dataset.url)):
            with suppress(OSError):
                folder.rmdir()


def _process_started(process: int) -> float | None:
    try:
        return float(psutil.Process(process).create_time())
    except psutil.Error:
        return None


@lru_cache(maxsize=1)
def _machine() -> str:
    """Name this machine, its boot and its process space; equal names share process ids."""
    boot, space = "", ""
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with suppress(OSError):
        space = str(Path("/proc/self/ns/pid").readlink())
    return f"{socket.gethostname()} {uuid.getnode():x} {boot} {space}".strip()
