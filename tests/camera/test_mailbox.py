"""The one-slot mailbox: what is replaced, what waits, and that nothing is unaccounted for."""

from __future__ import annotations

import threading

import pytest

from edge_ad.camera.frames import BadFrame, End, Frame, Read, SourceError, SourceKind
from edge_ad.camera.mailbox import Delivery, Mailbox, Reader
from tests.camera.pictures import noise


def bad(index: int) -> BadFrame:
    return BadFrame("test", index, 0.0, 0.0, "test", str(index))


def taken(mailbox: Mailbox) -> int | str | None:
    item = mailbox.take()
    if isinstance(item, Delivery):
        return item.frame.index
    return None if item is None else type(item).__name__


def test_freshest_frame_wins_and_the_others_are_counted() -> None:
    mailbox = Mailbox(freshest=True)
    for index in range(5):
        assert mailbox.put(bad(index))
    assert taken(mailbox) == 4
    assert taken(mailbox) is None
    assert (mailbox.captured, mailbox.overwritten, mailbox.lost) == (5, 4, 0)


def test_frames_that_never_arrived_are_lost_not_dropped() -> None:
    mailbox = Mailbox(freshest=True)
    for index in (0, 3, 4, 9):
        mailbox.put(bad(index))
    item = mailbox.take()
    assert isinstance(item, Delivery)
    assert (item.missing, item.first_missing) == (2 + 4, 1)  # 1, 2 and 5 to 8
    assert (mailbox.captured, mailbox.overwritten, mailbox.lost) == (4, 3, 6)


def test_the_first_missing_frame_is_known_when_those_behind_it_were_overwritten() -> None:
    mailbox = Mailbox(freshest=True)
    for index in (0, 1, 3, 4, 5):
        mailbox.put(bad(index))
        if index == 0:
            assert taken(mailbox) == 0
    item = mailbox.take()
    assert isinstance(item, Delivery)
    assert (item.frame.index, item.missing, item.first_missing) == (5, 1, 2)


def test_everything_comes_out_in_order() -> None:
    mailbox = Mailbox(freshest=True)
    mailbox.put(bad(0))
    mailbox.fail(SourceError("away"))
    mailbox.fail(SourceError("still away"))
    mailbox.finish(End())
    assert [taken(mailbox) for _ in range(4)] == [0, "SourceError", "End", "End"]
    assert mailbox.errors == 2


def test_an_error_before_a_frame_comes_out_before_it() -> None:
    mailbox = Mailbox(freshest=True)
    mailbox.fail(SourceError("away"))
    mailbox.put(bad(0))
    assert [taken(mailbox) for _ in range(3)] == ["SourceError", 0, None]


def test_a_lossless_writer_waits_until_the_slot_is_free() -> None:
    mailbox = Mailbox(freshest=False)
    writer = threading.Thread(target=lambda: [mailbox.put(bad(index)) for index in range(50)])
    writer.start()
    seen: list[int] = []
    while len(seen) < 50:
        with mailbox.changed:
            mailbox.changed.wait_for(lambda: mailbox.ready, timeout=5.0)
        item = taken(mailbox)
        assert isinstance(item, int)
        seen.append(item)
    writer.join(5.0)
    assert seen == list(range(50))
    assert (mailbox.captured, mailbox.overwritten) == (50, 0)


def test_close_frees_a_waiting_writer_and_refuses_its_frame() -> None:
    mailbox = Mailbox(freshest=False)
    mailbox.put(bad(0))
    results: list[bool] = []
    writer = threading.Thread(target=lambda: results.append(mailbox.put(bad(1))))
    writer.start()
    mailbox.close()
    writer.join(5.0)
    assert results == [False]
    assert mailbox.captured == 1
    assert taken(mailbox) == 0


@pytest.mark.parametrize(("freshest", "captured", "overwritten"), [(True, 1, 1), (False, 0, 0)])
def test_discard_keeps_the_account(freshest: bool, captured: int, overwritten: int) -> None:
    mailbox = Mailbox(freshest)
    mailbox.put(bad(0))
    mailbox.discard()
    assert taken(mailbox) is None
    assert (mailbox.captured, mailbox.overwritten) == (captured, overwritten)


class Stuck:
    """A source whose read hangs, or breaks."""

    name = "stuck"
    kind: SourceKind = "live"
    fps: float | None = None

    def __init__(self, error: Exception | None) -> None:
        self.release = threading.Event()
        self.closed = False
        self._error = error

    def read(self, timeout_s: float) -> Read:
        if self._error:
            raise self._error
        self.release.wait()
        return End()

    def close(self) -> None:
        self.closed = True


def test_a_reader_that_hangs_is_left_behind_with_its_handle() -> None:
    source = Stuck(None)
    reader = Reader(source, Mailbox(freshest=True))
    reader.start()
    assert not reader.close(wait_s=0.05)
    assert not source.closed
    source.release.set()


def test_a_source_that_breaks_ends_with_its_reason() -> None:
    mailbox = Mailbox(freshest=True)
    reader = Reader(Stuck(RuntimeError("cable cut")), mailbox)
    reader.start()
    with mailbox.changed:
        assert mailbox.changed.wait_for(lambda: mailbox.ready, timeout=5.0)
    end = mailbox.take()
    assert isinstance(end, End)
    assert end.broken
    assert end.reason is not None
    assert "RuntimeError: cable cut" in end.reason
    assert reader.close()


def test_a_frame_has_the_documented_fields() -> None:
    import numpy as np

    frame = Frame(np.zeros((2, 2, 3), np.uint8), 3, 1.0, 2.0, "cam", "3")
    assert (frame.index, frame.captured_at, frame.captured_wall, frame.source, frame.part) == (3, 1.0, 2.0, "cam", "3")


def test_a_frame_that_waits_is_prepared_unless_frames_replace_each_other() -> None:
    class Ends(Stuck):
        steps = iter([*(Frame(noise(n), n, 0.0, 0.0, "cam", str(n)) for n in range(3)), End()])

        def read(self, timeout_s: float) -> Read:
            return next(self.steps)

    prepared: list[int] = []

    def prepare(one: Frame) -> None:
        prepared.append(one.index)
        if one.index == 0:
            raise ValueError("cannot be resized")

    mailbox = Mailbox(freshest=True)
    reader = Reader(Ends(None), mailbox, prepare)
    reader.start()
    with mailbox.changed:
        assert mailbox.changed.wait_for(lambda: mailbox._end is not None, timeout=5.0)
    assert prepared == [0], "1 and 2 replaced frames that nobody had taken"
    delivery = mailbox.take()
    assert isinstance(delivery, Delivery)
    assert delivery.frame.index == 2
