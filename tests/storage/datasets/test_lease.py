import json
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from aura.errors import (
    InvalidInputError,
    LeaseHeldError,
    LeaseLostError,
    MissingFileError,
    StorageAccessError,
    StorageError,
)
from storage.datasets import lease as leases
from storage.datasets.lease import LeaseToken, hold, live_holder, require_writable
from storage.datasets.sealed import seal, unseal
from storage.objects.location import Location
from tests.conftest import wait_until


def record_of(place: Location) -> tuple[Location, dict[str, object]]:
    (name,) = place.join("lease").names()
    file = place.join("lease", name)
    return file, unseal(file.read(), name)


def test_a_second_run_is_refused_and_told_by_whom(place: Location) -> None:
    with hold(place) as lease:
        lease.require()
        lease.token.require()
        with pytest.raises(LeaseHeldError, match=rf"process {os.getpid()} on .*--wait"), hold(place):
            pass
        lease.require()
    assert live_holder(place) is None
    assert place.join("lease").names() == []
    with hold(place):
        pass


def test_a_run_that_waits_begins_when_the_other_has_ended(place: Location) -> None:
    told = threading.Event()
    began = threading.Event()

    def wait() -> None:
        with hold(place, wait=True, on_wait=lambda _: told.set()):
            began.set()

    thread = threading.Thread(target=wait)
    with hold(place):
        thread.start()
        assert told.wait(60)
        assert not began.is_set()
    thread.join(60)
    assert began.is_set()


def test_of_many_at_once_one_begins(place: Location) -> None:
    gate, done = threading.Barrier(5), threading.Barrier(6)
    won: list[int] = []

    def attempt(number: int) -> None:
        gate.wait()
        try:
            with hold(place):
                won.append(number)
                done.wait(60)
        except LeaseHeldError:
            done.wait(60)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    done.wait(60)
    for thread in threads:
        thread.join()
    assert len(won) <= 1  # none, if two began at the same moment and both stepped back


def test_a_killed_holder_on_this_machine_is_followed_at_once(place: Location) -> None:
    here, told = multiprocessing.get_context("fork").Pipe(duplex=False)

    def hold_for_ever() -> None:
        with hold(place):
            told.send("held")
            signal.pause()

    child = multiprocessing.get_context("fork").Process(target=hold_for_ever)
    child.start()
    assert here.recv() == "held"
    with pytest.raises(LeaseHeldError), hold(place):
        pass
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert live_holder(place) is None
    with hold(place) as lease:
        assert lease.token.number == 2
        assert place.join("lease").names() == ["000002.json"]


def elsewhere(place: Location, expires: float) -> Location:
    """Make the lease of a run on another machine."""
    record = leases.LeaseRecord(7, "other", "far", "another machine", 1, 0.0, time.time(), expires)
    file = place.join("lease", "000007.json")
    file.write(seal({name: getattr(record, name) for name in leases.LeaseRecord.__slots__}))
    return file


def test_a_holder_elsewhere_is_followed_when_its_lease_has_run_out(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_WATCH_S", 0.01)
    monkeypatch.setattr(leases, "_POLL_S", 0.001)
    elsewhere(place, time.time() + 60)
    with pytest.raises(LeaseHeldError, match="process 1 on far"), hold(place):
        pass
    elsewhere(place, time.time() - leases.CLOCK_MARGIN_S - 1)
    with hold(place) as lease:
        assert lease.token.number == 8
        assert place.join("lease").names() == ["000008.json"]


@pytest.mark.parametrize("wrong_by_s", [-7 * 3600, -300, 300, 7 * 3600])
@pytest.mark.parametrize("place", ["local"], indirect=True)
def test_a_holder_whose_clock_is_wrong_is_live_as_long_as_it_renews(
    wrong_by_s: float, place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "_POLL_S", 0.001)
    wrong = time.time() + wrong_by_s
    elsewhere(place, wrong)
    read, looked = leases._read, list[None]()

    def beats(dataset: Location, number: int) -> leases.LeaseRecord | None:
        looked.append(None)
        if len(looked) == 4:
            elsewhere(place, wrong + 15)
        return read(dataset, number)

    monkeypatch.setattr(leases, "_read", beats)
    with pytest.raises(LeaseHeldError, match="process 1 on far"), hold(place):
        pass
    assert place.join("lease").names() == ["000007.json"]
    monkeypatch.setattr(leases, "_WATCH_S", 0.01)  # from here on nobody renews it
    with hold(place) as lease:
        assert lease.token.number == 8
        assert place.join("lease").names() == ["000008.json"]


def test_a_storage_that_does_not_take_the_lease_back_hides_no_failure_and_makes_none(
    place: Location, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: Location) -> None:
        raise StorageError(f"{self.url} may not be removed")

    monkeypatch.setattr(Location, "remove", refuse)
    with pytest.raises(InvalidInputError, match="the failure that ended it"), hold(place):
        raise InvalidInputError("the failure that ended it")
    assert "could not be given back" in caplog.text
    with hold(place.join("another")):
        pass
    with pytest.raises(StorageError, match="may not be removed"):  # or the run would find its own lease in its way
        require_writable(place.join("third"))


def test_a_place_is_tried_without_a_trace(place: Location) -> None:
    require_writable(place)
    assert place.join("lease").names() == []
    with hold(place), pytest.raises(LeaseHeldError):
        require_writable(place)


def test_a_damaged_lease_is_nobodys(place: Location) -> None:
    file = elsewhere(place, time.time() + 60)
    file.write(file.read()[:-5] + b"xxxxx")
    with hold(place) as lease:
        assert lease.token.number == 8


def test_the_heartbeat_renews(place: Location) -> None:
    with hold(place, duration_s=0.5):
        _, first = record_of(place)
        wait_until(lambda: record_of(place)[1]["expires"] != first["expires"], "a renewal")


@pytest.mark.parametrize("refusal", [StorageAccessError("keys are being renewed"), MissingFileError("no bucket")])
def test_the_heartbeat_outlives_refusals(place: Location, monkeypatch: pytest.MonkeyPatch, refusal: Exception) -> None:
    write, refused = Location.write, list[None]()

    def refuse_twice(place: Location, data: bytes) -> None:
        if len(refused) < 2:
            refused.append(None)
            raise refusal
        write(place, data)

    with hold(place, duration_s=0.2) as lease:
        _, first = record_of(place)
        monkeypatch.setattr(Location, "write", refuse_twice)
        wait_until(lambda: record_of(place)[1]["expires"] != first["expires"], "a renewal")
        assert len(refused) == 2
        assert not lease.is_lost


def test_a_run_that_lost_its_lease_may_not_write_any_more(place: Location) -> None:
    with hold(place) as lease:
        file, record = record_of(place)
        file.remove()
        elsewhere(place, time.time() + 60)
        with pytest.raises(LeaseLostError, match="stopped before writing anything more"):
            lease.require()
        assert lease.is_lost
        with pytest.raises(LeaseLostError):
            lease.token.require()
        other = LeaseToken(place.url, 7, "somebody else")
        with pytest.raises(LeaseLostError):
            other.require()
        assert record["number"] == 1
    assert place.join("lease").names() == ["000007.json"]  # the other's is left alone


def test_a_run_that_was_taken_over_while_it_renewed_steps_back(place: Location) -> None:
    with hold(place) as lease:
        elsewhere(place, time.time() + 60)  # before it has removed ours
        with pytest.raises(LeaseLostError):
            lease.require()
        assert place.join("lease").names() == ["000007.json"]


def test_of_two_that_begin_under_different_numbers_one_steps_back(
    place: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Location.create

    def beside_another(mine: Location, data: bytes) -> bool:
        made = create(mine, data)
        elsewhere(place, time.time() + 60)
        return made

    monkeypatch.setattr(Location, "create", beside_another)
    with pytest.raises(LeaseHeldError, match="process 1 on far"), hold(place):
        pass
    assert place.join("lease").names() == ["000007.json"]


def test_the_heartbeat_notices_a_loss(place: Location) -> None:
    with hold(place, duration_s=0.2) as lease:
        file, _ = record_of(place)
        elsewhere(place, time.time() + 60)
        file.remove()
        wait_until(lambda: lease.is_lost, "the loss to be noticed")


def test_a_lost_answer_is_no_lost_lease(place: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    create = Location.create

    def answer_is_lost(place: Location, data: bytes) -> bool:
        create(place, data)
        return create(place, data)

    monkeypatch.setattr(Location, "create", answer_is_lost)
    with hold(place) as lease:
        lease.require()


def test_what_is_kept_is_read_by_people_too(place: Location, tmp_path: Path) -> None:
    with hold(place):
        file, _ = record_of(place)
        said = json.loads(file.read())
    assert said["process"] == os.getpid()
    assert tmp_path.exists()
    assert "content_sha256" in said


def test_a_reused_process_id_is_not_the_holder() -> None:
    mine = leases.LeaseRecord(
        1, "x", "here", leases._machine(), os.getpid(), leases._process_started(os.getpid()) or 0, 0, time.time() + 60
    )
    assert mine.is_live()
    assert not replace(mine, process_started=mine.process_started - 3600).is_live()
    assert replace(mine, machine="another").is_live()
