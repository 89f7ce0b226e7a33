"""Threads that compute for several shards of a process: the shard begun first goes first.

Taking turns evenly, shards would start and end together, and the cores would idle then. So the threads always do what
the oldest shard has ready, and the younger one's work only when that has nothing: its start hides behind the older
one's computing, and the older one's end behind its own.
"""

import heapq
import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from threading import Condition, Thread
from typing import Any, ParamSpec, TypeVar

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
_Work = Callable[[BaseException | None], None]


class Turns:
    """Threads, and the work that waits for them, in the order in which those it is for have begun."""

    def __init__(self, threads: int, begin: Callable[[], object], name: str) -> None:
        """Start the threads.

        Args:
            threads: how many.
            begin: what each does before its first work; if it fails, so does all its work.
            name: of the threads, which get a number each.

        Raises:
            RuntimeError: the system gives no more threads; none is left running.
        """
        self._changed = Condition()
        self._waiting: list[tuple[int, int, _Work]] = []
        self._closed = False
        self._turns = itertools.count()
        self._submitted = itertools.count()
        self._threads: list[Thread] = []
        try:
            for each in range(threads):
                thread = Thread(target=self._work, args=(begin,), name=f"{name}_{each}")
                thread.start()
                self._threads.append(thread)
        except BaseException:
            self.close()
            raise

    @contextmanager
    def turn(self) -> Iterator[Executor]:
        """Take part: what is submitted goes before the work of all who take part later.

        On leaving, work that has not begun is cancelled, and work that has is waited for.
        """
        turn = _Turn(self, next(self._turns))
        try:
            yield turn
        finally:
            turn.shutdown(cancel_futures=True)

    def close(self) -> None:
        """Stop the threads when all work is done."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def put(self, turn: int, work: _Work) -> None:
        """Have work done, at its turn; it raises nothing, and is told why its thread could not begin."""
        with self._changed:
            heapq.heappush(self._waiting, (turn, next(self._submitted), work))
            self._changed.notify()

    def _work(self, begin: Callable[[], object]) -> None:
        failure: BaseException | None = None
        try:
            begin()
        except BaseException as error:  # noqa: BLE001 -- it is for whoever asks for work, or they would wait for ever
            failure = error
        while (work := self._next()) is not None:
            work(failure)
            del work  # it would keep its result alive while the thread waits

    def _next(self) -> _Work | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return heapq.heappop(self._waiting)[2] if self._waiting else None


class _Turn(Executor):
    def __init__(self, turns: Turns, number: int) -> None:
        self._turns = turns
        self._number = number
        self._futures: set[Future[Any]] = set()

    def submit(
        self, fn: Callable[Arguments, Result], /, *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Future[Result]:
        future: Future[Result] = Future()

        def work(failure: BaseException | None) -> None:
            if not future.set_running_or_notify_cancel():
                return
            if failure:
                future.set_exception(failure)
                return
            try:
                result = fn(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001 -- as the library's executors: it is for whoever asks
                future.set_exception(error)
            else:
                future.set_result(result)

        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        self._turns.put(self._number, work)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        begun = [future for future in self._futures.copy() if not (cancel_futures and future.cancel())]
        if wait:
            wait_for(begun)
