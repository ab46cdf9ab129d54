"""Reading, work and writing overlap; what is read ahead and what waits to be written is bounded; order is kept."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from medseg.prediction.overlap import Room, Writer, read_ahead, side_by_side


def reading(read: Callable[[int], int], count: int, threads: int, room: Room) -> Any:
    return read_ahead(range(count), read, threads=threads, room=room, size=lambda found: 10)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_items_come_in_order_and_faults_in_their_place(threads: int) -> None:
    def read(item: int) -> int:
        if item == 2:
            raise KeyError("damaged")
        return -item

    room = Room(1000)
    found = list(reading(read, 5, threads, room))
    assert [item for item, _ in found] == [0, 1, 2, 3, 4]
    assert [each for _, each in found if not isinstance(each, Exception)] == [0, -1, -3, -4]
    assert isinstance(found[2][1], KeyError)


def test_the_next_ones_are_read_while_one_is_worked_on() -> None:
    begun = [threading.Event() for _ in range(4)]

    def read(item: int) -> int:
        begun[item].set()
        return item

    found = reading(read, 4, 2, Room(1000))
    assert next(found) == (0, 0)
    assert begun[1].wait(10)
    assert begun[2].wait(10)
    assert not begun[3].is_set()
    found.close()


def test_as_many_are_read_ahead_as_are_worked_on_at_once() -> None:
    read = [threading.Event() for _ in range(6)]

    def note(item: int) -> int:
        read[item].set()
        return item

    room = Room(1000)
    found: Any = read_ahead(range(6), note, threads=1, room=room, size=lambda found: 10, ahead=4)
    assert next(found) == (0, 0)
    assert all(each.wait(10) for each in read[:4])
    assert not read[4].is_set()
    found.close()


def test_no_more_is_read_than_there_is_room_for() -> None:
    """Two of 10 are held in a room of 25, not three, and before the size of one is known there is one."""
    read = [threading.Event() for _ in range(6)]
    first, room = threading.Event(), Room(25)

    def note(item: int) -> int:
        read[item].set()
        return item if item else first.wait(10)

    found = reading(note, 6, 3, room)
    other = threading.Thread(target=lambda: next(found))
    other.start()
    assert read[0].wait(10)
    assert not read[1].wait(0.1)
    first.set()
    other.join(10)
    assert read[1].wait(10)
    assert not read[2].wait(0.1)
    next(found)  # both are held now
    assert next(found) == (2, 2)  # one is read in any case, or nothing would ever go on
    assert not read[3].wait(0.1)
    for _ in range(3):
        room.give(10)
    assert next(found) == (3, 3)
    assert read[4].wait(10)  # one ahead
    assert not read[5].wait(0.1)
    found.close()


def test_an_item_larger_than_the_room_is_read() -> None:
    assert [item for item, _ in reading(lambda item: item, 3, 2, Room(1))] == [0, 1, 2]


def test_what_is_done_side_by_side_comes_in_order() -> None:
    """The second is done first, and the third, which is large, neither beside others nor before them."""
    at_work, alone = set[int](), threading.Event()
    second = threading.Event()

    def work(item: int) -> int:
        at_work.add(item)
        if item == 0:
            assert second.wait(10)
        if item == 1:
            second.set()
        if item == 2 and at_work == {2}:
            alone.set()
        at_work.remove(item)
        return -item

    found = list(side_by_side(range(5), work, threads=2, small=lambda item: item != 2))
    assert found == [(0, 0), (1, -1), (2, -2), (3, -3), (4, -4)]
    assert alone.is_set()


def test_the_largest_that_waits_is_next() -> None:
    """While the first two are at work, all others come to wait."""
    begun, free, at_work = list[int](), threading.Event(), threading.Barrier(3)

    def items() -> Iterator[int]:
        yield from (0, 1)
        at_work.wait(10)
        yield from (2, 3, 4, 5, 6)
        free.set()

    def work(item: int) -> int:
        if item < 2:
            at_work.wait(10)
            assert free.wait(10)
        begun.append(item)
        time.sleep(0.01)  # the other one's turn
        return item

    sizes = {2: 1, 3: 9, 4: 4, 5: 7, 6: 4}
    found = side_by_side(items(), work, threads=2, small=lambda item: True, size=lambda item: sizes.get(item, 0))
    assert [item for item, _ in found] == [*range(7)]
    assert sorted(begun[:2]) == [0, 1]
    assert begun[2] in (3, 5)
    assert begun[-1] in (2, 4, 6)
    assert begun.index(3) < begun.index(2)


def test_no_more_is_begun_side_by_side_than_a_few_a_thread() -> None:
    """The first takes long: eight are begun, what is done of them waits, and then each is handed on when it is done."""
    taken, free = list[int](), threading.Event()

    def items() -> Iterator[int]:
        for item in range(30):
            taken.append(item)
            yield item

    found = side_by_side(items(), lambda item: item or free.wait(10), threads=2, small=lambda item: True)
    other = threading.Thread(target=lambda: next(found))
    other.start()
    other.join(0.3)
    assert other.is_alive()
    assert len(taken) == 8
    free.set()
    other.join(10)
    assert [item for item, _ in found] == [*range(1, 30)]


def test_who_stops_waits_for_those_that_are_at_work_alone() -> None:
    done, begun = list[int](), threading.Event()

    def work(item: int) -> int:
        begun.set()
        time.sleep(0.2)
        done.append(item)
        return item

    found = side_by_side(range(30), work, threads=2, small=lambda item: True)
    assert next(found) == (0, 0)
    found.close()
    assert begun.is_set()
    assert len(done) < 8


def test_writing_keeps_order_and_waits_where_much_is_waiting() -> None:
    free, order, most = threading.Event(), list[int](), [0]
    room = Room(100)

    def work(number: int) -> Callable[[], None]:
        def write() -> None:
            free.wait(10)
            order.append(number)

        return write

    def hand_over() -> None:
        with Writer[int](room, lambda item, error: None) as writer:
            for number in range(6):
                writer.put(number, work(number), 40)
                most[0] = number + 1

    other = threading.Thread(target=hand_over)
    other.start()
    other.join(0.3)
    assert other.is_alive()
    assert most[0] < 6  # of 40 bytes each, no more than two go into 100 beside the one that is written
    free.set()
    other.join(10)
    assert order == [0, 1, 2, 3, 4, 5]
    assert room.for_another()


def test_what_cannot_be_written_is_told_and_the_others_are_written() -> None:
    told: list[tuple[int, str]] = []
    done: list[int] = []

    def fails() -> None:
        raise OSError("no")

    with Writer[int](Room(), lambda item, error: told.append((item, str(error)))) as writer:
        for number in range(3):
            writer.put(number, fails if number == 1 else lambda number=number: done.append(number), 0)  # type: ignore[misc]
    assert (told, done) == ([(1, "no")], [0, 2])


def test_nothing_is_written_after_a_request_to_end() -> None:
    done: list[int] = []

    def ends() -> None:
        raise SystemExit(143)

    def again(_item: int, error: BaseException) -> None:
        raise error

    def hand_over() -> None:
        with Writer[int](Room(), again) as writer:
            writer.put(0, ends, 0)
            writer.put(1, lambda: done.append(1), 0)

    with pytest.raises(SystemExit):
        hand_over()
    assert done == []


def test_what_threads_compute_takes_no_others_to_help() -> None:
    before = torch.get_num_threads()
    used: list[int] = []

    def note(item: int = 0) -> int:
        used.append(torch.get_num_threads())
        return item

    torch.set_num_threads(3)
    try:
        room = Room(1000)
        list(reading(note, 4, 2, room))
        with Writer[int](room, lambda item, error: None) as writer:
            writer.put(1, lambda: used.append(torch.get_num_threads()), 1)
        assert used == [1, 1, 1, 1, 1]
        assert torch.get_num_threads() == 3
        later = threading.Thread(target=note)  # somebody else's
        later.start()
        later.join()
        assert used[-1] == 3
    finally:
        torch.set_num_threads(before)
