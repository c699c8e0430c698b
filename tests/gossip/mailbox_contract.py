"""What the protocol of ``Mailbox`` promises, for the tests of each transport: ``shared`` is the owner's side with
``in_flight``, ``ends`` are the endpoints of three ranks with four numbers each."""

import pytest
import torch


def check_that_boxes_add_take_empties_and_replace_replaces(shared, ends) -> None:  # type: ignore[no-untyped-def]
    ones = torch.ones(4)
    assert ends[1].take(0) is None and ends[0].waiting(0, 1) == 0
    assert ends[0].put(1, ones, 0.5, 3) and ends[0].put(1, 2 * ones, 0.25, 7) and ends[2].put(1, 9 * ones, 1.0, 1)
    numerator, weight = shared.in_flight()
    assert numerator.tolist() == [12.0] * 4 and weight == 1.75
    assert ends[1].waiting(0, 1) == 2
    message = ends[1].take(0)
    assert message.numerator.tolist() == [3.0] * 4
    assert (message.weight, message.sent_at, message.count) == (0.75, 7, 2)
    assert ends[1].take(0) is None and ends[1].waiting(0, 1) == 0
    ends[0].put(1, 5 * ones, 0.5, 8)
    assert message.numerator.tolist() == [3.0] * 4, "a message that was handed out is never written again"
    for version in range(100):
        ends[0].put(1, version * ones, 1.0, version, replace=True)
    newest = ends[1].take(0)
    assert newest.numerator.tolist() == [99.0] * 4 and (newest.weight, newest.sent_at, newest.count) == (1.0, 99, 1)


def check_progress_and_closing(ends) -> None:  # type: ignore[no-untyped-def]
    ends[2].advance(17)
    assert [ends[0].progress(rank) for rank in range(3)] == [0, 0, 17]
    assert [ends[0].finished(rank) for rank in range(3)] == [False, False, False]
    ends[2].close()
    ends[2].close()
    assert [ends[0].finished(rank) for rank in range(3)] == [False, False, True]
    assert ends[0].progress(2) == 17


def check_bad_ranks_and_shapes(ends) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match="same parameters"):
        ends[0].put(1, torch.ones(5), 0.5, 0)
    with pytest.raises(ValueError, match=r"3 .*outside|no box 0 -> 3"):
        ends[0].put(3, torch.ones(4), 0.5, 0)
