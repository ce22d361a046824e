"""Who may go now: every reason by table, and the rules of the queue by property."""

from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batch_fn.core.admission import (
    CORRECTION_RANGE,
    FRESH,
    LEARNING_TOKENS,
    MAY_GO,
    Decision,
    Deployment,
    Reason,
    clear_backoff,
    decide,
    record_headers,
    record_queue_head,
    record_refusal,
    release_tokens,
    reserve,
)
from batch_fn.core.jobs import Part
from tests.conftest import NOON, a_part

PATIENCE = timedelta(hours=1)
FIRST_WAIT = timedelta(minutes=5)


def deployment(**known: Any) -> Deployment:
    return Deployment(name="batch-small", **known)


def waiting(tokens: int, *, minutes: float = 0, number: int = 1, requests: int = 10) -> Part:
    """A part that has waited for so many minutes at noon."""
    since = NOON - timedelta(minutes=minutes)
    return a_part(number=number, estimated_tokens=tokens, requests=requests, waiting_since=since)


def decided(
    parts: list[Part], known: Deployment | None = None, *, limit: int | None = 100, enqueued: int = 0
) -> list[Decision]:
    return decide(parts, known or deployment(), limit=limit, enqueued=enqueued, now=NOON, patience=PATIENCE)


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
deployments = st.builds(deployment, correction=st.floats(0.25, 4.0))
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
def test_only_the_oldest_probes_after_a_refusal(
    parts: list[Part], known: Deployment, limit: int | None, enqueued: int
) -> None:
    decisions = decided(parts, known, limit=limit, enqueued=enqueued)
    assert all(decision.reason is Reason.BEHIND for decision in decisions[1:])
    assert all(decision.reason is Reason.PROBES for decision in decisions if decision.may_go)
    if decisions and limit is None:
        assert decisions[0].reason is Reason.PROBES


def test_after_a_refusal_exactly_one_probes_even_where_the_oldest_must_be_split() -> None:
    known = deployment(refusals=1, not_before=NOON)
    found = reasons(waiting(500, minutes=9), waiting(10, minutes=8), waiting(10, minutes=7), known=known)
    assert found[0] is Reason.TOO_LARGE
    assert not MAY_GO & set(found)  # its pieces keep its place: the oldest of them probes next time


# What is remembered of the decisions


def test_those_that_may_go_are_counted_in_and_the_others_are_not() -> None:
    decisions = decided([waiting(30, minutes=9), waiting(80, minutes=8), waiting(20, minutes=7)], enqueued=10)
    known = reserve(deployment(enqueued=99), decisions, enqueued=10, now=NOON)
    assert known == deployment(enqueued=60, counted_at=NOON)


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


@pytest.mark.parametrize(
    ("counted_at", "fresh"),
    [(None, False), (NOON, True), (NOON - FRESH + timedelta(seconds=1), True), (NOON - FRESH, False)],
)
def test_a_count_is_believed_for_two_minutes(counted_at: datetime | None, fresh: bool) -> None:
    assert deployment(counted_at=counted_at).fresh(NOON) is fresh


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        (deployment(), deployment()),
        (deployment(enqueued=50, counted_at=NOON), deployment(enqueued=20, counted_at=NOON)),
        (deployment(enqueued=50, counted_at=NOON, seen=40), deployment(enqueued=20, counted_at=NOON, seen=10)),
        (deployment(enqueued=5, counted_at=NOON, seen=5), deployment(enqueued=0, counted_at=NOON, seen=0)),
        (
            deployment(enqueued=50, counted_at=NOON, correction=1.5),
            deployment(enqueued=5, counted_at=NOON, correction=1.5),
        ),
    ],
    ids=["nothing was counted", "counted by us", "told by the service", "never below nothing", "as they were counted"],
)
def test_the_tokens_of_a_batch_that_has_ended_count_no_more(known: Deployment, expected: Deployment) -> None:
    assert release_tokens(known, waiting(30)) == expected


# What the headers teach


def after_create(
    known: Deployment, estimate: int = LEARNING_TOKENS, *, enqueued: int | None, limit: int | None = None
) -> Deployment:
    return record_headers(known, estimate=estimate, enqueued=enqueued, limit=limit, now=NOON)


def test_the_service_s_count_and_limit_replace_ours() -> None:
    known = after_create(deployment(limit=5, enqueued=7), enqueued=50, limit=100)
    assert known == deployment(limit=100, enqueued=50, counted_at=NOON, seen=50, seen_at=NOON)


@pytest.mark.parametrize(
    ("enqueued", "limit", "expected"),
    [
        (None, None, deployment(limit=5, enqueued=7)),
        (None, 100, deployment(limit=100, enqueued=7)),
        (50, None, deployment(limit=5, enqueued=50, counted_at=NOON, seen=50, seen_at=NOON)),
        (0, None, deployment(limit=5, enqueued=0, counted_at=NOON, seen=0, seen_at=NOON)),
    ],
)
def test_what_the_service_does_not_tell_stays(enqueued: int | None, limit: int | None, expected: Deployment) -> None:
    assert after_create(deployment(limit=5, enqueued=7), enqueued=enqueued, limit=limit) == expected


@pytest.mark.parametrize(
    ("known", "estimate", "enqueued", "correction"),
    [
        (deployment(seen=0, seen_at=NOON), 1_000, 1_000, 1.0),
        (deployment(seen=0, seen_at=NOON), 1_000, 2_000, 1.3),
        (deployment(seen=500, seen_at=NOON), 1_000, 2_500, 1.3),
        (deployment(seen=0, seen_at=NOON), 1_000, 500, 0.85),
        (deployment(seen=0, seen_at=NOON), 1_000, 900_000, 1.9),
        (deployment(seen=0, seen_at=NOON), 1_000, 1, 0.775),
        (deployment(seen=0, seen_at=NOON, correction=2.0), 1_000, 1_000, 1.7),
        (deployment(seen=0, seen_at=NOON), 999, 2_000, 1.0),
        (deployment(seen=2_000, seen_at=NOON), 1_000, 2_000, 1.0),
        (deployment(seen=3_000, seen_at=NOON), 1_000, 2_000, 1.0),
        (deployment(seen=0, seen_at=NOON - FRESH), 1_000, 2_000, 1.0),
        (deployment(), 1_000, 2_000, 1.0),
    ],
    ids=[
        "as estimated",
        "twice as many",
        "only the rise counts",
        "half as many",
        "one look moves it so far up",
        "and so far down",
        "from what was known",
        "small batches teach nothing",
        "no rise teaches nothing",
        "a fall teaches nothing",
        "an old count teaches nothing",
        "the first count teaches nothing",
    ],
)
def test_a_rise_of_the_count_corrects_the_estimate(
    known: Deployment, estimate: int, enqueued: int, correction: float
) -> None:
    assert after_create(known, estimate, enqueued=enqueued).correction == pytest.approx(correction)


counted = st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**9)), max_size=20)


@given(counted)
def test_the_correction_stays_in_its_range_whatever_the_service_counts(looks: list[tuple[int, int]]) -> None:
    known = deployment()
    for estimate, enqueued in looks:
        known = after_create(known, estimate, enqueued=enqueued)
        assert CORRECTION_RANGE[0] <= known.correction <= CORRECTION_RANGE[1]


@given(st.floats(*CORRECTION_RANGE), st.floats(*CORRECTION_RANGE))
def test_the_correction_comes_to_what_the_service_really_counts(start: float, real: float) -> None:
    known = deployment(seen=0, seen_at=NOON, correction=start)
    for _ in range(30):
        assert known.seen is not None
        known = after_create(known, 10**6, enqueued=known.seen + round(real * 10**6))
    assert known.correction == pytest.approx(real, rel=0.01)


# Refusals


def refusals_in_a_row(count: int) -> list[Deployment]:
    known, now, told = deployment(), NOON, []
    for _ in range(count):
        known = record_refusal(known, waiting(10), first_wait=FIRST_WAIT, now=now)
        told.append(known)
        assert known.not_before is not None
        now = known.not_before
    return told


def test_each_refusal_doubles_the_wait_up_to_sixteenfold() -> None:
    waits = [(known.not_before or NOON) - (known.refused_at or NOON) for known in refusals_in_a_row(8)]
    assert waits == [FIRST_WAIT * factor for factor in (1, 2, 4, 8, 16, 16, 16, 16)]


def test_each_refusal_counts() -> None:
    assert [known.refusals for known in refusals_in_a_row(3)] == [1, 2, 3]


def test_batches_that_are_refused_together_count_once() -> None:
    part = waiting(10)
    first = record_refusal(deployment(), part, first_wait=FIRST_WAIT, now=NOON)
    assert record_refusal(first, part, first_wait=FIRST_WAIT, now=NOON) == first
    assert record_refusal(first, part, first_wait=FIRST_WAIT, now=NOON + FIRST_WAIT - timedelta(seconds=1)) == first
    assert record_refusal(first, part, first_wait=FIRST_WAIT, now=NOON + FIRST_WAIT) != first


def test_the_tokens_of_batches_that_are_refused_count_no_more() -> None:
    two = [waiting(30, number=1), waiting(50, number=2)]
    known = reserve(deployment(), decided(two), enqueued=20, now=NOON)
    assert known.enqueued == 100
    for part in two:
        known = record_refusal(known, part, first_wait=FIRST_WAIT, now=NOON)
    assert (known.enqueued, known.refusals) == (20, 1)


@pytest.mark.parametrize(
    ("known", "created", "forgotten"),
    [
        (deployment(refusals=2, refused_at=NOON, not_before=NOON + FIRST_WAIT), timedelta(seconds=1), True),
        (deployment(refusals=2, refused_at=NOON, not_before=NOON + FIRST_WAIT), timedelta(0), False),
        (deployment(refusals=2, refused_at=NOON, not_before=NOON + FIRST_WAIT), -timedelta(hours=1), False),
        (deployment(refusals=2), -timedelta(hours=1), True),
    ],
    ids=["a newer batch", "of the same moment", "an older batch", "refused who knows when"],
)
def test_refusals_are_forgotten_when_a_batch_created_after_them_runs(
    known: Deployment, created: timedelta, forgotten: bool
) -> None:
    assert clear_backoff(known, NOON + created) == (deployment() if forgotten else known)


def test_a_batch_that_runs_changes_nothing_where_nothing_was_refused() -> None:
    known = deployment(limit=100, enqueued=5, counted_at=NOON)
    assert clear_backoff(known, NOON) == known
