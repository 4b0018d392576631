"""Running flows: the arrays in which the fluid kernels keep who shares which link at what level.

A flow's rate is weight x level, the level being that of its *owner*, the link that is its bottleneck (see maxmin.py). A
link is *closed* once filling has given it a level; the flows of its own list have that level and are frozen. Flows whose
owner is not closed are *open*. `order` lists the closed links as they closed, and every `spacing` links a *save* remembers
what each link had left: filling restarts from any save with exactly the same numbers.

Each owner has a clock, `served`: bytes per unit of weight that its own flows got so far. A flow ends when that clock
reaches `end_served`, so a change of level moves no flow's entry; only a flow that changes owner is rewritten.

The arrays hold records: a kernel that is handed many arrays spends its time counting references to them.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

NO_OWNER = -1
UNKNOWN = -1.0  # next_served of a link whose own flows have changed
NUM_SAVES = 8

RUN = np.dtype(
    [
        ("time", "f8"),  # of the last change of rates, seconds after the epoch
        ("epoch", "f8"),  # start of the present busy period, absolute seconds
        ("backward_error", "f8"),  # the largest relative change of a flow's bytes by merging
        ("solves", "i8"),  # how often rates were shared
        ("running", "i8"),  # flows on links
        ("active", "i8"),  # entries of `active` in use
        ("closed", "i8"),  # closed links, the first of `order`
        ("expected", "i8"),  # entries of `order`: after the closed links those expected to close, as they did before
        ("spacing", "i8"),  # closed links from save to save
        ("equal", "i8"),  # 1 when all weights are 1
    ]
)
OPEN = np.dtype(  # what a link has for its open flows; sums come with what rounding lost
    [("left", "f8"), ("left_lost", "f8"), ("weight", "f8"), ("weight_lost", "f8"), ("count", "i8")]
)
LINK = np.dtype(
    [
        ("level", "f8"),  # at which it closed; infinity while open or not full
        ("served", "f8"),  # its clock at served_at
        ("served_at", "f8"),
        ("next_served", "f8"),  # the clock when the first of its own flows ends
        ("due", "f8"),  # the time of that
        ("floor", "f8"),  # it may not run dry before this time when completions are merged
        ("row", "i8"),  # where its rows start in `row` and own_flow
        ("pairs", "i8"),  # where its rows start in pair and pair_weight
        ("row_count", "i4"),  # running flows on it
        ("own_count", "i4"),  # running flows it owns
        ("pair_count", "i4"),  # other links its own flows cross, counted once per flow
        ("position", "i4"),  # in `order` when closed
        ("is_active", "i8"),  # 1 when listed in `active`
    ]
)
# A hop knows its place in the row of its link and in the pairs of its flow's owner.
HOP = np.dtype([("link", "i4"), ("flow", "i4"), ("place", "i4"), ("pair", "i4")])
ROW = np.dtype([("hop", "i4"), ("flow", "i4")])  # a running flow on the link
PAIR = np.dtype([("link", "i4"), ("hop", "i4")])  # a hop of an own flow on another link
FLOW = np.dtype(
    [
        ("size", "f8"),  # bytes
        ("weight", "f8"),
        ("end_served", "f8"),  # on the owner's clock; without an owner, bytes per weight to go
        ("finish", "f8"),  # absolute seconds; NaN until it ends
        ("excess", "f8"),  # bytes by which a merged completion differs from the flow's own
        ("hops", "i8"),  # its first hop; the next record has its last + 1
        ("owner", "i4"),
        ("place", "i4"),  # in the owner's own_flow
    ]
)


class Running(NamedTuple):
    """Flows and links of one fluid run."""

    run: NDArray[Any]  # RUN [1]
    open: NDArray[Any]  # OPEN [links]
    save: NDArray[Any]  # OPEN [NUM_SAVES, links]
    link: NDArray[Any]  # LINK [links]
    active: NDArray[np.int32]  # links with running flows
    order: NDArray[np.int32]
    heap_key: NDArray[np.float64]
    heap_link: NDArray[np.int32]
    row: NDArray[Any]  # ROW
    own_flow: NDArray[np.int32]
    pair: NDArray[Any]  # PAIR: what closing a link must take from other links, in one sweep
    pair_weight: NDArray[np.float64]  # empty while weights are equal
    hop: NDArray[Any]  # HOP: one flow on one link
    flow: NDArray[Any]  # FLOW [F + 1]
    batch: NDArray[np.int32]  # flows of the next completion

    @property
    def num_flows(self) -> int:
        """Flows there is room for."""
        return len(self.flow) - 1


def new_running(
    bandwidth: NDArray[np.float64],
    offsets: NDArray[np.int64],
    links: NDArray[np.int32],
    size: NDArray[np.float64],
    weight: NDArray[np.float64],
    floor_s: NDArray[np.float64] | None = None,
) -> Running:
    """Room for these flows on these links; none of them runs yet."""
    num_links, num_flows, num_hops = len(bandwidth), len(size), len(links)
    run = np.zeros(1, RUN)
    run["equal"] = (weight == 1.0).all()
    link = np.zeros(num_links, LINK)
    link["level"], link["due"], link["next_served"] = np.inf, np.inf, UNKNOWN
    link["floor"] = 0.0 if floor_s is None else floor_s
    open_ = np.zeros(num_links, OPEN)
    open_["left"] = bandwidth
    hop = np.empty(num_hops, HOP)
    flow = np.empty(num_flows + 1, FLOW)
    num_pairs = _lay_out(link, hop, flow, offsets, links, size, weight)
    return Running(
        run=run,
        open=open_,
        save=np.zeros((NUM_SAVES, num_links), OPEN),
        link=link,
        active=np.zeros(num_links, np.int32),
        order=np.zeros(num_links + 1, np.int32),
        heap_key=np.zeros(num_links),
        heap_link=np.zeros(num_links, np.int32),
        row=np.zeros(num_hops, ROW),
        own_flow=np.zeros(num_hops, np.int32),
        pair=np.zeros(num_pairs, PAIR),
        pair_weight=np.zeros(0 if run["equal"][0] else num_pairs),
        hop=hop,
        flow=flow,
        batch=np.zeros(num_flows, np.int32),
    )


@njit(cache=True)
def _lay_out(links, hops, flows, offsets, path_links, size, weight):  # type: ignore[no-untyped-def]
    """Fill in the records of hops and flows, and where the rows of links start; returns the number of pairs."""
    for index in range(len(flows)):
        flow = flows[index]
        flow.hops = offsets[index]
        flow.finish = np.nan
        flow.excess = 0.0
        flow.owner = NO_OWNER
        flow.place = 0
        if index + 1 == len(flows):
            break
        flow.size = size[index]
        flow.weight = weight[index]
        flow.end_served = size[index] / weight[index]
        others = offsets[index + 1] - offsets[index] - 1
        for at in range(offsets[index], offsets[index + 1]):
            hops[at].link = path_links[at]
            hops[at].flow = index
            links[path_links[at]].row += 1
            links[path_links[at]].pairs += others
    rows = 0
    pairs = 0
    for index in range(len(links)):
        row_length, pair_length = links[index].row, links[index].pairs
        links[index].row, links[index].pairs = rows, pairs
        rows += row_length
        pairs += pair_length
    return pairs


@njit(cache=True, inline="always")
def add_weight(record, amount):  # type: ignore[no-untyped-def]
    """Add to an open weight; `weight_lost` keeps what rounding loses (Knuth's TwoSum)."""
    before = record.weight
    after = before + amount
    part = after - before
    record.weight = after
    record.weight_lost += (before - (after - part)) + (amount - part)


@njit(cache=True)
def insert(s, index):  # type: ignore[no-untyped-def]
    """Put a flow with `end_served` bytes per weight to go on its links, as open; all links must be open."""
    flow = s.flow[index]
    flow.owner = NO_OWNER
    s.run[0].running += 1
    for at in range(flow.hops, s.flow[index + 1].hops):
        hop = s.hop[at]
        link = s.link[hop.link]
        s.row[link.row + link.row_count].hop = at
        s.row[link.row + link.row_count].flow = index
        hop.place = link.row_count
        link.row_count += 1
        s.open[hop.link].count += 1
        add_weight(s.open[hop.link], flow.weight)
        if link.is_active == 0:
            link.is_active = 1
            s.active[s.run[0].active] = hop.link
            s.run[0].active += 1


@njit(cache=True)
def remove(s, index):  # type: ignore[no-untyped-def]
    """Take an open flow off its links and its owner's list."""
    flow = s.flow[index]
    s.run[0].running -= 1
    leave_owner(s.link, s.own_flow, s.pair, s.pair_weight, s.hop, s.flow, index)
    num_saves = min(NUM_SAVES, s.run[0].closed // max(1, s.run[0].spacing))  # later saves will be made anew
    for at in range(flow.hops, s.flow[index + 1].hops):
        hop = s.hop[at]
        link = s.link[hop.link]
        link.row_count -= 1
        last = s.row[link.row + link.row_count]
        s.row[link.row + hop.place] = last
        s.hop[last.hop].place = hop.place
        s.open[hop.link].count -= 1
        add_weight(s.open[hop.link], -flow.weight)
        for save in range(num_saves):
            s.save[save, hop.link].count -= 1
            add_weight(s.save[save, hop.link], -flow.weight)


@njit(cache=True)
def remove_all(s):  # type: ignore[no-untyped-def]
    """Take every flow off the links."""
    for at in range(s.run[0].active):
        index = s.active[at]
        link = s.link[index]
        link.level = np.inf
        link.due = np.inf
        link.next_served = UNKNOWN
        link.row_count = link.own_count = link.pair_count = link.is_active = 0
        s.open[index].left = s.save[0, index].left  # the first save has nothing closed: this is the bandwidth
        s.open[index].left_lost = s.open[index].weight = s.open[index].weight_lost = 0.0
        s.open[index].count = 0
    s.run[0].running = s.run[0].active = s.run[0].closed = s.run[0].expected = 0


@njit(cache=True)
def join_owner(links, own_flow, pairs, pair_weight, hops, flows, owner, index):  # type: ignore[no-untyped-def]
    """Put a flow on a link's own list."""
    flow, link = flows[index], links[owner]
    flow.owner = owner
    flow.place = link.own_count
    own_flow[link.row + link.own_count] = index
    link.own_count += 1
    link.next_served = UNKNOWN
    for at in range(flow.hops, flows[index + 1].hops):
        if hops[at].link != owner:
            pair = link.pairs + link.pair_count
            hops[at].pair = link.pair_count
            pairs[pair].hop = at
            pairs[pair].link = hops[at].link
            if len(pair_weight):
                pair_weight[pair] = flow.weight
            link.pair_count += 1


@njit(cache=True)
def leave_owner(links, own_flow, pairs, pair_weight, hops, flows, index):  # type: ignore[no-untyped-def]
    """Take a flow off its owner's list; what is last in a list moves to the place that becomes free."""
    flow = flows[index]
    link = links[flow.owner]
    link.own_count -= 1
    moved = own_flow[link.row + link.own_count]
    own_flow[link.row + flow.place] = moved
    flows[moved].place = flow.place
    link.next_served = UNKNOWN
    for at in range(flow.hops, flows[index + 1].hops):
        if hops[at].link != flow.owner:
            link.pair_count -= 1
            last, free = link.pairs + link.pair_count, link.pairs + hops[at].pair
            pairs[free].hop = pairs[last].hop
            pairs[free].link = pairs[last].link
            if len(pair_weight):
                pair_weight[free] = pair_weight[last]
            hops[pairs[last].hop].pair = hops[at].pair


@njit(cache=True)
def left_to_send(s, index, time):  # type: ignore[no-untyped-def]
    """Bytes per unit of weight that a running flow has yet to send at `time`."""
    flow = s.flow[index]
    if flow.owner == NO_OWNER:
        return flow.end_served
    owner = s.link[flow.owner]
    return max(0.0, flow.end_served - owner.served - owner.level * (time - owner.served_at))
