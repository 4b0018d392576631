"""Links that change and flows that are re-routed while transfers run."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import simpy
from hypothesis import given
from hypothesis import strategies as st

from moesim.network.fabric import BoundFabric, Fabric, FluidFabric
from moesim.network.flow import Flows, Paths
from moesim.network.transfer import Transfer
from tests.strategies.flows import Case, cases, paths_of

FABRICS = [FluidFabric, BoundFabric]
Prepare = Callable[[Fabric], None]


def run(kind: type[Fabric], case: Case, *prepare: Prepare) -> tuple[Fabric, Transfer, float]:
    """Play all flows of a case from time 0, one participant who waits for all; returns when it was told, too."""
    fabric = kind(simpy.Environment(), case.bandwidth)
    flows = case.flows()
    starter = np.zeros(flows.num_flows, np.int32)
    transfer = fabric.open(flows, starter, starter, 1, np.array([0, 1]), np.zeros(1, np.int32))
    told = [np.nan]

    def participant() -> Iterator[simpy.Event]:
        yield transfer.arrive(0)
        told[0] = fabric.env.now

    fabric.env.process(participant())
    for step in prepare:
        step(fabric)
    fabric.env.run()
    return fabric, transfer, told[0]


def rewriting(at: float, new_flows: Callable[[Flows], Flows]) -> Prepare:
    """Rewrite the flows of the fabric at that time."""

    def prepare(fabric: Fabric) -> None:
        def act() -> Iterator[simpy.Event]:
            yield fabric.env.timeout(at)
            fabric.rewrite(new_flows)

        fabric.env.process(act())

    return prepare


def one_flow(num_links: int = 1) -> Case:
    """100 bytes over link 0 of 10 B/s."""
    return Case(np.array([10.0, 20.0, 30.0][:num_links]), ((0,),), np.array([100.0]), np.ones(1))


@pytest.mark.parametrize("kind", FABRICS)
def test_a_link_serves_what_is_left_at_its_new_rate(kind: Any) -> None:
    """100 B at 10 B/s, halved at 4 s: 40 B are through, the other 60 take 12 s; doubled at 10 s: 30 B left take 3 s."""
    changes = [lambda fabric: fabric.plan_bandwidth(4.0, [5.0])]
    assert 16.0 == run(kind, one_flow(), *changes)[2]
    assert 13.0 == run(kind, one_flow(), *changes, lambda fabric: fabric.plan_bandwidth(10.0, [10.0]))[2]


@pytest.mark.parametrize("kind", FABRICS)
@given(case=cases(), at=st.floats(0.01, 30.0), factor=st.sampled_from([0.1, 0.5, 1.0, 2.0]))
def test_scaling_all_links_at_a_time_scales_what_comes_after_it(
    kind: Any, case: Case, at: float, factor: float
) -> None:
    """All bandwidths times c at time t: what ended by t does not change, what ended later ends at t + (end - t) / c."""
    _, before, _ = run(kind, case)
    _, after, _ = run(kind, case, lambda fabric: fabric.plan_bandwidth(at, case.bandwidth * factor))
    expected = np.where(before.finish_F <= at, before.finish_F, at + (before.finish_F - at) / factor)
    assert after.finish_F == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(case=cases(), at=st.floats(0.0, 20.0), link=st.integers(0, 6), factor=st.floats(0.05, 1.0))
def test_a_slower_link_never_makes_the_bound_faster(case: Case, at: float, link: int, factor: float) -> None:
    """On links that queue, no flow ends earlier when one link slows down at any time."""
    slower = case.bandwidth.copy()
    slower[link % len(slower)] *= factor
    _, before, _ = run(BoundFabric, case)
    _, after, _ = run(BoundFabric, case, lambda fabric: fabric.plan_bandwidth(at, slower))
    assert (after.finish_F >= before.finish_F * (1 - 1e-12)).all()


def test_a_flow_under_way_goes_on_over_its_new_path_with_the_bytes_it_has_left() -> None:
    """Fluid: 40 of 100 B went over link 0; the other 60 take 3 s over link 1 of 20 B/s, and count there."""

    def onto_link_1(flows: Flows) -> Flows:
        return dataclasses.replace(flows, paths=paths_of(((1,),)), latency_F=np.array([0.5]))

    fabric, _, told = run(FluidFabric, one_flow(2), rewriting(4.0, onto_link_1))
    assert 7.5 == told
    assert [40.0, 60.0] == fabric.link_bytes.tolist()


def test_a_bound_flow_that_has_started_stays_queued() -> None:
    """Bound: a link keeps what it was given."""
    fabric, _, told = run(
        BoundFabric, one_flow(2), rewriting(4.0, lambda flows: dataclasses.replace(flows, paths=paths_of(((1,),))))
    )
    assert 10.0 == told
    assert [100.0, 0.0] == fabric.link_bytes.tolist()


@pytest.mark.parametrize("kind", FABRICS)
def test_flows_that_have_not_started_start_on_their_new_path(kind: Any) -> None:
    """A participant that arrives after the change uses what its flows were changed to."""
    fabric = kind(simpy.Environment(), np.array([10.0, 20.0]))
    transfer = fabric.open(one_flow(2).flows(), [0], [0], 1, [0, 1], [0])
    rewriting(1.0, lambda flows: dataclasses.replace(flows, paths=paths_of(((1,),))))(fabric)

    def participant() -> Iterator[simpy.Event]:
        yield fabric.env.timeout(2.0)
        yield transfer.arrive(0)

    fabric.env.run(fabric.env.process(participant()))
    assert (7.0, [0.0, 100.0]) == (fabric.env.now, fabric.link_bytes.tolist())


def test_a_flow_whose_bytes_become_zero_ends_then() -> None:
    """Fluid: the flow that is given up after 4 s carried 40 B, and its waiter is told."""
    fabric, transfer, told = run(
        FluidFabric, one_flow(), rewriting(4.0, lambda flows: dataclasses.replace(flows, bytes_F=np.zeros(1)))
    )
    assert (4.0, 4.0, [40.0]) == (told, transfer.finish_F[0], fabric.link_bytes.tolist())


@st.composite
def moved(draw: st.DrawFn) -> tuple[Case, list[int], float]:
    """A case, an order of its links, and a time."""
    case = draw(cases())
    return case, draw(st.permutations(range(len(case.bandwidth)))), draw(st.floats(0.0, 20.0))


@given(moved())
def test_rerouting_conserves_bytes_on_every_hop(drawn: tuple[Case, list[int], float]) -> None:
    """Links exchanged under flows that run: bytes x hops are carried, whatever the time of the change."""
    case, order, at = drawn

    def exchanged(flows: Flows) -> Flows:
        links = np.array(order, np.int32)[flows.paths.links]
        return dataclasses.replace(flows, paths=Paths(flows.paths.offsets, links))

    fabric, transfer, _ = run(FluidFabric, case, rewriting(at, exchanged))
    hops = np.array([len(path) for path in case.paths], float)
    assert not np.isnan(transfer.finish_F).any()
    assert fabric.link_bytes.sum() == pytest.approx((case.size * hops).sum(), rel=1e-9, abs=1e-9)


@given(moved())
def test_exchanging_equal_links_changes_no_time(drawn: tuple[Case, list[int], float]) -> None:
    """With one bandwidth everywhere a new name for every link, at any time, leaves every end where it was."""
    case, order, at = drawn
    case = dataclasses.replace(case, bandwidth=np.full(len(case.bandwidth), 2.0))

    def exchanged(flows: Flows) -> Flows:
        links = np.array(order, np.int32)[flows.paths.links]
        return dataclasses.replace(flows, paths=Paths(flows.paths.offsets, links))

    _, before, _ = run(FluidFabric, case)
    _, after, _ = run(FluidFabric, case, rewriting(at, exchanged))
    assert after.finish_F == pytest.approx(before.finish_F, rel=1e-9, abs=1e-9)


@given(case=cases(), at=st.floats(0.0, 20.0))
def test_rewriting_nothing_changes_nothing(case: Case, at: float) -> None:
    """The same flows back: the same ends, up to rounding."""
    _, before, told = run(FluidFabric, case)
    _, after, told_after = run(FluidFabric, case, rewriting(at, lambda flows: flows))
    assert after.finish_F == pytest.approx(before.finish_F, rel=1e-12, abs=1e-12)
    assert told_after == pytest.approx(told, rel=1e-12)
