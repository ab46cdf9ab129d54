"""Reading, work and writing at the same time: what is read ahead and what waits to be written is bounded in bytes.

Threads, not processes: decoders, compressors and tensor operations let other threads run, and nothing is copied between
processes. Order is kept at both ends, so that a run gives the same whatever the threads do. What they compute they do
alone: with OpenMP's threads for each of them, forwards wait at every operation for a processor (a fifth of their time
on two cores). Small forwards, too, take a share of the processors each, side by side: their operations are too short to
be divided well, and where all processors divide one, each waits for the one that reads or writes meanwhile.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import PriorityQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

import torch

__all__ = ["Room", "Writer", "read_ahead", "side_by_side", "tried"]

Item = TypeVar("Item")
Read = TypeVar("Read")
Done = TypeVar("Done")

ROOM = 2**29  # bytes: what may be held beside the case that is worked on
_WAITING = 8  # results, however small
_TAKEN = 4  # small items a thread that works on them: some take several times as long as others


def _pool(threads: int, name: str, each: int = 1) -> ThreadPoolExecutor:
    """Return threads whose tensor operations take so many processors each; by default no others help."""
    return ThreadPoolExecutor(threads, name, initializer=_takes, initargs=(each, torch.get_num_threads()))


def _takes(own: int, others: int) -> None:
    """Let this thread's tensor operations take so many threads.

    Args:
        own: itself among them.
        others: how many threads those of threads that come later take, as before.
    """
    torch.get_num_threads()  # PyTorch sets up a thread at its first question, which would undo what follows
    torch.set_num_threads(own)  # of this thread, and of all that come later
    later = threading.Thread(target=torch.set_num_threads, args=(others,))
    later.start()
    later.join()


class Room:
    """How many bytes cases hold at the moment, from their reading to their last file.

    Args:
        size: how many there should be at most; a single case may always take what it needs.
    """

    def __init__(self, size: int = ROOM) -> None:
        self._size, self._held, self._largest = size, 0, 0
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> None:
        """Take note of what a case holds."""
        with self._lock:
            self._held += nbytes
            self._largest = max(self._largest, nbytes)

    def give(self, nbytes: int) -> None:
        """Take note that a case holds it no more."""
        with self._lock:
            self._held -= nbytes

    def for_another(self, coming: int = 0) -> bool:
        """Return whether one more case, as large as the largest yet, leaves the size unbroken; of none is known: no.

        Args:
            coming: cases that are being read and not counted yet.
        """
        with self._lock:
            return self._largest > 0 and self._held + (coming + 1) * self._largest <= self._size


def read_ahead(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    *,
    threads: int,
    room: Room,
    size: Callable[[Read], int],
    ahead: int = 0,
) -> Iterator[tuple[Item, Read | Exception]]:
    """Read items in threads while the caller works on those before; what is raised comes in the item's place.

    Args:
        items: what is read, in order.
        read: called in another thread, or with no threads in this one.
        threads: that read.
        room: what others hold; what was read is counted there once it is handed on, and the caller gives it back.
        size: bytes of what was read.
        ahead: how many are read ahead where there is room: what the caller works on at once, or there would be fewer
            when it comes back; always one more than there are threads.
    """
    most = max(threads + 1, ahead)
    waiting: deque[tuple[Item, Future[Read]]] = deque()
    left = iter(items)

    def done(future: Future[Read]) -> Read | Exception:
        found = tried(future.result)
        if not isinstance(found, Exception):
            room.take(size(found))
        return found

    with _pool(max(1, threads), "medseg-read") as pool:

        def fill(most: int, least: int) -> None:
            # so many in any case; others where there is room, which is not known before the first is there
            while len(waiting) < least or (len(waiting) < most and room.for_another(len(waiting))):
                try:
                    item = next(left)
                except StopIteration:
                    return
                waiting.append((item, pool.submit(read, item)))

        try:
            while True:
                fill(most, 1)
                if not waiting:
                    return
                item, future = waiting.popleft()
                found = done(future)
                del future
                fill(most - 1, 0)
                yield item, found
                del item, found
        finally:
            pool.shutdown(cancel_futures=True)


def side_by_side(
    items: Iterable[Item],
    work: Callable[[Item], Done],
    *,
    threads: int,
    small: Callable[[Item], bool],
    size: Callable[[Item], int] = lambda _: 0,
) -> Generator[tuple[Item, Done | Exception]]:
    """Work on small items several at a time, each with its share of the processors; on others one by one, with all.

    Of those that wait the largest is next, so that at the end no thread is left alone with it.

    Args:
        items: what is worked on; results come in their order, what is raised in the place of one.
        work: called in other threads, or for what is not small in the caller's.
        threads: how many work at a time; several times as many items are taken, so that none of them waits for another.
        small: tells whether an item is.
        size: how much work an item is.
    """
    waiting: deque[tuple[Item, Future[Done]]] = deque()
    largest = PriorityQueue[tuple[int, int, Item, Future[Done]]]()
    share = max(1, torch.get_num_threads() // max(1, threads))

    def do() -> None:
        *_, item, future = largest.get()
        try:
            future.set_result(work(item))
        except BaseException as error:
            future.set_exception(error)

    def first() -> tuple[Item, Done | Exception]:
        item, future = waiting.popleft()
        return item, tried(future.result)

    with _pool(max(1, threads), "medseg-forward", share) as pool:
        try:
            for number, item in enumerate(items):
                if threads > 1 and small(item):
                    waiting.append((item, Future()))
                    largest.put((-size(item), number, *waiting[-1]))
                    pool.submit(do)
                else:
                    while waiting:
                        yield first()
                    yield item, tried(partial(work, item))
                del item
                while waiting and (waiting[0][1].done() or len(waiting) >= _TAKEN * threads):
                    yield first()
            while waiting:
                yield first()
        finally:
            pool.shutdown(cancel_futures=True)


def tried(work: Callable[[], Done]) -> Done | Exception:
    """Return what some work gives, or what it raises."""
    try:
        return work()
    except Exception as error:
        return error


class Writer(Generic[Item]):
    """Writes in another thread, in order; the caller waits where too much is waiting.

    Args:
        room: what others hold.
        failed: called in the caller's thread with an item and what its work raised.
        last: whether nothing is to be written after an error, such as of a full disk; nothing is after a request to
            end.
    """

    def __init__(
        self,
        room: Room,
        failed: Callable[[Item, BaseException], None],
        last: Callable[[Exception], bool] = lambda error: False,
    ) -> None:
        self._room, self._failed, self._last = room, failed, last
        self._pool = _pool(1, "medseg-write")
        self._waiting: deque[tuple[Item, Future[None]]] = deque()
        self._ends = False

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def put(self, item: Item, work: Callable[[], None], nbytes: int) -> None:
        """Let an item be written.

        Args:
            item: for `failed`.
            work: what writes it.
            nbytes: that it holds until then, in addition to what `room` knows.
        """
        while len(self._waiting) >= _WAITING or (self._waiting and not self._room.for_another()):
            self._take()
        while self._waiting and self._waiting[0][1].done():
            self._take()
        self._room.take(nbytes)

        def write() -> None:
            try:
                if not self._ends:
                    work()
            except BaseException as error:
                self._ends = self._ends or not isinstance(error, Exception) or self._last(error)
                raise
            finally:
                self._room.give(nbytes)

        self._waiting.append((item, self._pool.submit(write)))

    def _take(self) -> None:
        item, future = self._waiting.popleft()
        error = future.exception()
        if error is not None:
            self._failed(item, error)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is written; after an exception, for the item that is being written alone."""
        if kind is not None:
            self._pool.shutdown(cancel_futures=True)
            return
        try:
            while self._waiting:
                self._take()
        finally:
            self._pool.shutdown(cancel_futures=True)
