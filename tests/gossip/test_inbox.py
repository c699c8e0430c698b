"""What an inbox remembers of the envelopes that came: each counted once, in whatever order, at little memory."""

import random

import numpy as np
import pytest

from gala.gossip.transport.inbox import Envelope, Inbox


def envelope(number, value=1.0):
    return Envelope(0, 1, number, np.full(2, value, np.float32), value, number, replace=False)


@pytest.mark.parametrize("seed", range(20))
def test_each_is_added_once_in_any_order_and_with_repeats(seed):
    draw = random.Random(seed)
    numbers = [draw.randint(1, 30) for _ in range(60)]
    inbox, arrived = Inbox(), set()
    for number in numbers:
        assert inbox.deliver(envelope(number, 2.0**-number))
        taken = inbox.take(0)
        assert (None if taken is None else taken[0].weight) == (None if number in arrived else 2.0**-number)
        arrived.add(number)
    inbox.refuse()
    inbox.close()
    assert {n for n in range(1, 40) if inbox.deliver(envelope(n))} == arrived


def test_an_envelope_that_was_taken_back_does_not_cost_memory_for_all_that_follow():
    inbox = Inbox()
    for number in (n for n in range(1, 20_001) if n not in (5, 900, 901)):
        inbox.deliver(envelope(number))
    (seen,) = inbox._seen.values()
    assert seen.missing == [range(5, 6), range(900, 902)]
    inbox.take(0)
    assert inbox.deliver(envelope(901, 3.0)) and inbox.take(0)[0].weight == 3.0
    assert seen.missing == [range(5, 6), range(900, 901)]
