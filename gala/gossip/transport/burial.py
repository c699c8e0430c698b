"""Writing off a rank whose process has died: what went with it, what waits for nobody, and who may have it."""

from __future__ import annotations

import numpy as np

from gala.gossip.push_sum import in_unit
from gala.gossip.transport.block import Block
from gala.gossip.transport.box import Box
from gala.gossip.transport.roster import PRESENT


def bury(block: Block, rank: int) -> float:
    """Write a dead rank off; returns the weight that went with it. What others sent it is theirs to take back."""
    table, intents = block.table, block.intents
    at = intents.edge(rank)
    if at is not None:
        box = block.box(block.edges[at])
        with block.locked(box):
            table.weight[rank] = intents.weight(rank, box, float(table.weight[rank]))
    intents.settle(rank)
    cut_off = 0.0
    for edge in (e for e in block.edges if rank in e):
        box = block.box(edge)
        with block.locked(box) as held:
            if held:
                if edge[0] == rank:
                    box.repair()
                block.announce(edge)  # of what it was killed while taking it said that it is gone
        cut_off += float(box.reals[Box.LOST]) if edge[0] == rank else 0.0
    before, intents.cut_off[rank] = float(intents.cut_off[rank]), cut_off
    orphaned = pass_on_orphans(block, rank)
    lost = table.bury(rank, cut_off - before + orphaned)
    intents.buried[rank] += in_unit(lost, table.highest_unit(), 0)
    intents.forget(rank)  # last: until then another, if this process is killed, finds it dead and does all of it again
    return lost


def pass_on_orphans(block: Block, rank: int) -> float:
    """What ``rank`` and others that are gone had sent to each other, two that left at once say, goes to somebody who is
    there; returns the weight for which there was nobody."""
    weight = 0.0
    live = [r for r in np.flatnonzero(block.table.state == PRESENT).tolist() if r != rank]
    heir = next((r for r in live if block.has((rank, r))), None)
    for edge in (e for e in block.edges if rank in e):
        if not block.table.gone(edge[0] if edge[1] == rank else edge[1]):
            continue
        with block.locked(block.box(edge)) as held:
            message = block.box(edge).take(back=True) if held else None
            block.note(edge, 0.0)
        if message is None or block.box(edge).ints[Box.IS_COPY]:
            continue
        passed_on = False
        if heir is not None:
            with block.locked(block.box((rank, heir))) as passed_on:
                if passed_on:
                    block.arrived[heir, rank] = 1
                    block.box((rank, heir)).put(message.numerator, message.weight, message.sent_at, False)
                    block.note((rank, heir), block.box((rank, heir)).mass())
        weight += 0.0 if passed_on else message.weight
    return weight
