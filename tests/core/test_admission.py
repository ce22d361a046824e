"""Who may go now: every reason by table, and the rules of the queue by property."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_fn.core.admission import HOPELESS_AFTER, Decision, Reason, decide, load_of, record_queue_head
from batch_fn.core.deployments import LONE_REFUSALS, Deployment, Load
from batch_fn.core.jobs import Part, PartState
from batch_fn.core.waits import Refusals
from tests.conftest import NOON, a_part

PATIENCE = timedelta(hours=1)
FIRST_WAIT = timedelta(minutes=5)
MINUTE = timedelta(minutes=1)


def deployment(**known: Any) -> Deployment:
    return Deployment(name="batch-small", **known)


def waiting(
    tokens: int, *, minutes: float = 0, number: int = 1, requests: int = 10, refusals: Refusals | None = None
) -> Part:
    """A part that has waited for so many minutes at noon."""
    since = NOON - timedelta(minutes=minutes)
    return a_part(number=number, estimated_tokens=tokens, requests=requests, waiting_since=since, refusals=refusals)


def refused(*, minutes: float = 0, alone: int = 0, hours: float = 0) -> Refusals:
    """Refusals, the last so many minutes before noon, of them some alone, the first of those so many hours before."""
    since = NOON - timedelta(hours=hours) if alone else None
    return Refusals(at=NOON - timedelta(minutes=minutes), count=max(alone, 1), alone=alone, alone_since=since)


def beside(tokens: int) -> Load:
    """One batch that the service runs."""
    return Load(parts=1, tokens=tokens) if tokens else Load()


def decided(
    parts: list[Part], known: Deployment | None = None, *, limit: int | None = 100, enqueued: int = 0
) -> list[Decision]:
    return decide(parts, known or deployment(), limit=limit, load=beside(enqueued), now=NOON, patience=PATIENCE)


def reasons(*parts: Part, known: Deployment | None = None, limit: int | None = 100, enqueued: int = 0) -> list[str]:
    return [decision.reason for decision in decided([*parts], known, limit=limit, enqueued=enqueued)]


parts = st.lists(
    st.builds(
        waiting, st.integers(0, 150), minutes=st.integers(0, 120), number=st.integers(1, 99), requests=st.integers(1, 3)
    ),
    max_size=8,
)
limits = st.integers(1, 200)
counts = st.integers(0, 250)
deployments = st.builds(deployment)
after_refusals = st.builds(deployment, refusals=st.integers(1, 9), refused_at=st.just(NOON - FIRST_WAIT))


# One part


@pytest.mark.parametrize(
    ("tokens", "requests", "limit", "enqueued", "reason"),
    [
        (40, 10, 100, 0, Reason.FITS),
        (40, 10, 100, 60, Reason.FITS),
        (40, 10, 100, 61, Reason.NO_ROOM),
        (100, 10, 100, 0, Reason.FITS),
        (100, 10, 100, 1, Reason.NO_ROOM),
        (101, 10, 100, 0, Reason.TOO_LARGE),
        (101, 10, 100, 90, Reason.TOO_LARGE),
        (101, 2, 100, 0, Reason.TOO_LARGE),
        (101, 1, 100, 0, Reason.FITS),
        (101, 1, 100, 1, Reason.NO_ROOM),
        (0, 1, 100, 100, Reason.FITS),
        (0, 1, 100, 101, Reason.NO_ROOM),
        (40, 10, None, 0, Reason.NO_LIMIT_KNOWN),
        (10**9, 10, None, 10**9, Reason.NO_LIMIT_KNOWN),
    ],
)
def test_a_part_beside_what_is_enqueued(
    tokens: int, requests: int, limit: int | None, enqueued: int, reason: Reason
) -> None:
    assert reasons(waiting(tokens, requests=requests), limit=limit, enqueued=enqueued) == [reason]


@pytest.mark.parametrize(
    ("known", "limit", "enqueued", "reason"),
    [
        (deployment(refusals=1, not_before=NOON + timedelta(seconds=1)), 100, 0, Reason.BACK_OFF),
        (deployment(refusals=1, not_before=NOON + timedelta(seconds=1)), None, 0, Reason.BACK_OFF),
        (deployment(refusals=1, not_before=NOON), 100, 0, Reason.PROBES),
        (deployment(refusals=1, not_before=NOON), None, 0, Reason.PROBES),
        (deployment(refusals=1, not_before=NOON), 100, 90, Reason.NO_ROOM),
        (deployment(refusals=3), 100, 0, Reason.PROBES),
        (deployment(refusals=0, not_before=NOON), 100, 0, Reason.FITS),
    ],
)
def test_a_part_after_a_refusal(known: Deployment, limit: int | None, enqueued: int, reason: Reason) -> None:
    assert reasons(waiting(40), known=known, limit=limit, enqueued=enqueued) == [reason]


@pytest.mark.parametrize("reason", Reason)
def test_a_part_may_go_for_three_of_the_reasons(reason: Reason) -> None:
    decision = Decision(part=a_part(), reason=reason, needed=1, limit=1, enqueued=0)
    assert decision.may_go is (reason in {"fits", "no_limit_known", "probes"})


def test_a_part_needs_what_the_headers_taught_rounded_up() -> None:
    assert deployment(correction=1.5).needs(waiting(11)) == 17
    assert reasons(waiting(11), known=deployment(correction=1.5), limit=17) == [Reason.FITS]
    assert reasons(waiting(11), known=deployment(correction=1.5), limit=16) == [Reason.TOO_LARGE]


def test_a_decision_carries_the_numbers_that_said_so() -> None:
    first, second = decided([waiting(30, minutes=9), waiting(60, minutes=8, number=2)], enqueued=20)
    assert first == Decision(part=first.part, reason=Reason.FITS, needed=30, limit=100, enqueued=20)
    assert second == Decision(part=second.part, reason=Reason.NO_ROOM, needed=60, limit=100, enqueued=50)
    wait = msgspec.structs.asdict(second.wait)
    assert wait == {
        "reason": "no_room",
        "message": "",
        "needed": 60,
        "limit": 100,
        "enqueued": 50,
        "until": None,
    }


def test_only_a_back_off_says_until_when() -> None:
    end = NOON + timedelta(minutes=3)
    (decision,) = decided([waiting(30)], deployment(refusals=1, not_before=end))
    assert (decision.until, decision.wait.until) == (end, end)
    (decision,) = decided([waiting(30)], deployment(refusals=1, not_before=NOON - timedelta(minutes=3)))
    assert (decision.until, decision.wait.until) == (None, None)


# Several parts


@pytest.mark.parametrize(
    ("large_minutes", "expected"),
    [
        (50, [Reason.NO_ROOM, Reason.FITS]),
        (60, [Reason.NO_ROOM, Reason.FITS]),
        (61, [Reason.NO_ROOM, Reason.BEHIND]),
    ],
)
def test_a_large_part_is_overtaken_until_its_patience_ends(large_minutes: int, expected: list[Reason]) -> None:
    large, small = waiting(80, minutes=large_minutes), waiting(10, minutes=1, number=2)
    assert reasons(small, large, enqueued=50) == expected


def test_a_part_that_has_to_be_split_holds_nobody_up() -> None:
    assert reasons(waiting(500, minutes=600), waiting(10, minutes=1)) == [Reason.TOO_LARGE, Reason.FITS]


def test_the_oldest_comes_first_and_of_the_same_age_the_first_of_the_drop() -> None:
    old = waiting(1, minutes=9, number=3)
    same, next_to_it = waiting(1, minutes=5, number=1), waiting(1, minutes=5, number=2)
    assert [decision.part for decision in decided([next_to_it, same, old])] == [old, same, next_to_it]


@given(parts, deployments, limits, counts)
def test_what_is_admitted_never_exceeds_the_room(
    parts: list[Part], known: Deployment, limit: int, enqueued: int
) -> None:
    decisions = decided(parts, known, limit=limit, enqueued=enqueued)
    goes = [decision for decision in decisions if decision.may_go]
    if goes:
        alone_and_single = len(goes) == 1 and enqueued == 0 and goes[0].part.requests == 1
        assert enqueued + sum(decision.needed for decision in goes) <= limit or alone_and_single


@given(parts, deployments, limits, counts)
def test_every_part_gets_one_decision_whatever_order_they_come_in(
    parts: list[Part], known: Deployment, limit: int, enqueued: int
) -> None:
    decisions = decided(parts, known, limit=limit, enqueued=enqueued)
    ages = [decision.part.waiting_since for decision in decisions]
    assert ages == sorted(ages)
    assert len(decisions) == len(parts)
    assert all(part in [decision.part for decision in decisions] for part in parts)


@given(parts, deployments, limits, counts)
def test_no_part_is_left_that_would_have_fitted_when_its_turn_came(
    parts: list[Part], known: Deployment, limit: int, enqueued: int
) -> None:
    for decision in decided(parts, known, limit=limit, enqueued=enqueued):
        assert decision.enqueued == enqueued
        if decision.reason is Reason.FITS:
            enqueued += decision.needed
        elif decision.reason is Reason.NO_ROOM:
            assert enqueued + min(decision.needed, limit) > limit


@given(parts, deployments, limits, counts)
def test_nobody_overtakes_a_part_that_was_passed_over_for_longer_than_patience(
    parts: list[Part], known: Deployment, limit: int, enqueued: int
) -> None:
    held = False
    for decision in decided(parts, known, limit=limit, enqueued=enqueued):
        assert (decision.reason is Reason.BEHIND) is held
        held = held or (decision.reason is Reason.NO_ROOM and NOON - decision.part.waiting_since > PATIENCE)


@given(parts, deployments, limits, counts)
def test_a_part_is_too_large_exactly_when_it_cannot_ever_fit_and_can_be_split(
    parts: list[Part], known: Deployment, limit: int, enqueued: int
) -> None:
    for decision in decided(parts, known, limit=limit, enqueued=enqueued):
        if decision.reason is not Reason.BEHIND:
            can_be_split = decision.part.requests > 1
            assert (decision.reason is Reason.TOO_LARGE) is (decision.needed > limit and can_be_split)


@given(parts, st.none() | limits, counts, st.timedeltas(timedelta(microseconds=1), timedelta(days=1)))
def test_nobody_goes_during_a_back_off(parts: list[Part], limit: int | None, enqueued: int, left: timedelta) -> None:
    known = deployment(refusals=1, not_before=NOON + left)
    assert set(reasons(*parts, known=known, limit=limit, enqueued=enqueued)) <= {Reason.BACK_OFF}


@given(parts, after_refusals, st.none() | limits, counts)
def test_at_most_one_probes_after_a_refusal(
    parts: list[Part], known: Deployment, limit: int | None, enqueued: int
) -> None:
    decisions = decided(parts, known, limit=limit, enqueued=enqueued)
    goes = [decision for decision in decisions if decision.may_go]
    assert len(goes) <= 1
    assert all(decision.reason is Reason.PROBES for decision in goes)
    if decisions and limit is None:
        assert goes == decisions[:1]


@given(parts, after_refusals, st.none() | limits)
def test_nobody_probes_while_the_service_has_not_decided_on_another(
    parts: list[Part], known: Deployment, limit: int | None
) -> None:
    load = Load(parts=1, tokens=10, undecided=1)
    decisions = decide(parts, known, limit=limit, load=load, now=NOON, patience=PATIENCE)
    assert {decision.reason for decision in decisions} <= {Reason.BEHIND}


def test_a_part_that_has_to_be_split_does_not_keep_others_from_probing() -> None:
    known = deployment(refusals=1, not_before=NOON)
    found = reasons(waiting(500, minutes=9), waiting(10, minutes=8), waiting(10, minutes=7), known=known)
    assert found == [Reason.TOO_LARGE, Reason.PROBES, Reason.BEHIND]


def test_probes_take_turns() -> None:
    known = deployment(refusals=3, not_before=NOON)
    refused_last = waiting(10, minutes=50, number=1, refusals=refused(minutes=5))
    refused_first = waiting(10, minutes=40, number=2, refusals=refused(minutes=15))
    younger, youngest = waiting(10, minutes=10, number=3), waiting(10, minutes=1, number=4)
    found = decided([refused_last, refused_first, younger, youngest], known, limit=None)
    assert [decision.part for decision in found] == [refused_first, younger, refused_last, youngest]


@pytest.mark.parametrize("limit", [None, 100])
@pytest.mark.parametrize(
    ("minutes", "alone", "enqueued", "expected"),
    [
        (60, 0, 20, [Reason.PROBES, Reason.BEHIND]),
        (61, 0, 20, [Reason.NO_ROOM, Reason.BEHIND]),
        (61, 2, 20, [Reason.NO_ROOM, Reason.BEHIND]),
        (61, 2, 0, [Reason.PROBES, Reason.BEHIND]),
        (60 + 24 * 60, 2, 20, [Reason.PROBES, Reason.BEHIND]),
        (60 + 48 * 60, 2, 20, [Reason.NO_ROOM, Reason.BEHIND]),
    ],
)
def test_a_refused_part_gets_the_deployment_to_itself_when_its_patience_ends(
    minutes: int, alone: int, enqueued: int, expected: list[Reason], limit: int | None
) -> None:
    """Else nobody would ever know whether it is too large, or others were in its way."""
    known = deployment(refusals=1, not_before=NOON)
    tried = waiting(10, minutes=minutes, refusals=refused(minutes=59, alone=alone))
    other = waiting(10, minutes=1, number=2)
    assert reasons(tried, other, known=known, limit=limit, enqueued=enqueued) == expected


# Parts that are too large


@pytest.mark.parametrize(
    ("tokens", "known", "limit", "cut_to"),
    [
        (101, deployment(), 100, 100),
        (200, deployment(correction=2.0), 100, 100),
        (101, deployment(), None, None),
        (101, deployment(largest=60, largest_until=NOON + MINUTE), None, 60),
        (101, deployment(largest=60, largest_until=NOON + MINUTE), 80, 60),
        (101, deployment(largest=90, largest_until=NOON + MINUTE), 80, 80),
        (101, deployment(largest=60, largest_until=NOON), None, None),
    ],
)
def test_a_part_is_cut_to_what_a_deployment_takes(
    tokens: int, known: Deployment, limit: int | None, cut_to: int | None
) -> None:
    (decision,) = decided([waiting(tokens)], known, limit=limit)
    assert (decision.reason is Reason.TOO_LARGE, decision.cut_to) == (cut_to is not None, cut_to)


@pytest.mark.parametrize(
    ("alone", "told", "cut_to"),
    [(LONE_REFUSALS, None, 40), (LONE_REFUSALS, 319, 40), (LONE_REFUSALS, 320, None), (LONE_REFUSALS - 1, None, None)],
    ids=["no limit is told", "our estimate may be wrong", "it must fit", "not often enough"],
)
def test_a_part_that_was_refused_alone_is_halved_unless_it_must_fit(
    alone: int, told: int | None, cut_to: int | None
) -> None:
    part = waiting(80, refusals=refused(alone=alone))
    (decision,) = decided([part], deployment(limit=told), limit=told)
    assert (decision.reason is Reason.TOO_LARGE, decision.cut_to) == (cut_to is not None, cut_to)


@pytest.mark.parametrize(
    ("alone", "hours", "limit", "never"),
    [
        (LONE_REFUSALS, 1, 79, True),
        (LONE_REFUSALS - 1, 1, 79, False),
        (LONE_REFUSALS, 1, 80, False),
        (LONE_REFUSALS, 1, None, False),
        (LONE_REFUSALS, HOPELESS_AFTER / timedelta(hours=1), 80, True),
        (LONE_REFUSALS, HOPELESS_AFTER / timedelta(hours=1), None, True),
        (LONE_REFUSALS, HOPELESS_AFTER / timedelta(hours=1), 320, False),
        (LONE_REFUSALS - 1, 999, None, False),
    ],
)
def test_a_single_line_is_given_up_when_it_is_over_the_limit_or_was_refused_alone_for_a_day(
    alone: int, hours: float, limit: int | None, never: bool
) -> None:
    part = waiting(80, requests=1, refusals=refused(alone=alone, hours=hours))
    (decision,) = decided([part], deployment(limit=limit), limit=limit)
    assert (decision.reason is Reason.NEVER_FITS) is never


# What is enqueued


@pytest.mark.parametrize(
    ("part", "load"),
    [
        (a_part(state=PartState.WAITING), Load()),
        (a_part(state=PartState.WAITING, admitted_at=NOON), Load(parts=1, tokens=1_000, undecided=1)),
        (a_part(state=PartState.WAITING, create_intent_at=NOON), Load(parts=1, tokens=1_000, undecided=1)),
        (a_part(state=PartState.CLAIMED), Load(parts=1, tokens=1_000, undecided=1)),
        (a_part(state=PartState.BUNDLED), Load()),
        (a_part(state=PartState.OPEN, batch_status="in_progress"), Load(parts=1, tokens=1_000)),
        (a_part(state=PartState.OPEN, batch_status="validating"), Load(parts=1, tokens=1_000, undecided=1)),
        (
            a_part(state=PartState.OPEN, batch_status="validating", created_at=NOON - PATIENCE),
            Load(parts=1, tokens=1_000),
        ),
        (
            a_part(state=PartState.WAITING, create_intent_at=NOON - PATIENCE),
            Load(parts=1, tokens=1_000),
        ),
        (a_part(state=PartState.ENDED), Load()),
        (a_part(state=PartState.SETTLED), Load()),
    ],
)
def test_what_a_part_has_enqueued_is_in_its_row(part: Part, load: Load) -> None:
    assert load_of([part], now=NOON, patience=PATIENCE) == load


@pytest.mark.parametrize(
    ("known", "enqueued"),
    [
        (deployment(), 30),
        (deployment(correction=1.5), 45),
        (deployment(extra=50, extra_until=NOON + MINUTE), 80),
        (deployment(extra=50, extra_until=NOON), 30),
    ],
)
def test_what_the_service_counted_beyond_ours_is_added_for_a_while(known: Deployment, enqueued: int) -> None:
    assert known.enqueued(Load(parts=1, tokens=30), NOON) == enqueued


# What is remembered of the decisions


@pytest.mark.parametrize(
    ("parts", "oldest"),
    [
        ([], None),
        ([waiting(10, minutes=9)], None),
        ([waiting(10, minutes=9), waiting(95, minutes=8), waiting(96, minutes=7)], NOON - timedelta(minutes=8)),
        ([waiting(500, minutes=9), waiting(95, minutes=8)], NOON - timedelta(minutes=9)),
    ],
)
def test_who_comes_later_stands_behind_the_oldest_that_was_left(parts: list[Part], oldest: datetime | None) -> None:
    before = deployment(oldest_waiting=NOON - timedelta(days=1))
    assert record_queue_head(before, decided(parts)) == deployment(oldest_waiting=oldest)
