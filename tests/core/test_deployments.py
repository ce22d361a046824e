"""What headers and refusals teach of a deployment's quota: by table, and over any history by property."""

from datetime import timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batch_fn.core.admission import Decision, decide, holds_tokens, load_of
from batch_fn.core.deployments import (
    CORRECTION_RANGE,
    EXTRA_FOR,
    LARGEST_FLOOR,
    LARGEST_FOR,
    LEARNING_TOKENS,
    LONE_REFUSALS,
    Deployment,
    Load,
    clear_backoff,
    limit_of,
    most_tokens,
    record_headers,
    record_refusal,
    refused,
    wait_of,
)
from batch_fn.core.jobs import Part, PartState
from batch_fn.core.waits import Refusals
from tests.conftest import NOON, a_part

FIRST_WAIT = timedelta(minutes=5)
MINUTE = timedelta(minutes=1)


def deployment(**known: Any) -> Deployment:
    return Deployment(name="gpt-4o-mini", **known)


# Headers


def after_create(
    known: Deployment, estimate: int = 1_000, *, told: int | None, limit: int | None = None, beside: int = 0
) -> Deployment:
    part = a_part(estimated_tokens=estimate)
    load = Load(parts=1, tokens=beside) if beside else Load()
    return record_headers(known, part, told=told, limit=limit, load=load, now=NOON)


@pytest.mark.parametrize(("told", "expected"), [(None, 5), (100, 100)])
def test_the_last_limit_that_was_told_is_the_limit(told: int | None, expected: int) -> None:
    assert after_create(deployment(limit=5), told=None, limit=told).limit == expected


@pytest.mark.parametrize(
    ("told", "beside", "extra"),
    [(None, 500, 7), (0, 500, 0), (1_000, 500, 0), (1_500, 500, 0), (1_700, 500, 200), (900_000, 500, 898_500)],
    ids=["not told", "nothing", "the file", "all of ours", "others too", "others much"],
)
def test_a_count_above_ours_is_added_and_a_lower_one_is_not_believed(told: int | None, beside: int, extra: int) -> None:
    """The header may count the deployment or the file: only more than ours says the same under both."""
    known = after_create(deployment(extra=7, extra_until=NOON + MINUTE), told=told, beside=beside)
    until = NOON + (MINUTE if told is None else EXTRA_FOR)
    assert (known.extra, known.extra_until) == (extra, until if extra else None)
    assert known.correction == 1.0


@pytest.mark.parametrize(
    ("correction", "estimate", "told", "expected"),
    [
        (1.0, LEARNING_TOKENS, 1_000, 1.0),
        (1.0, LEARNING_TOKENS, 2_000, 1.3),
        (1.0, LEARNING_TOKENS, 4_000, 1.9),
        (1.0, LEARNING_TOKENS, 4_001, 1.0),
        (1.0, LEARNING_TOKENS, 999, 1.0),
        (1.0, LEARNING_TOKENS, 0, 1.0),
        (2.0, LEARNING_TOKENS, 1_000, 1.7),
        (1.0, LEARNING_TOKENS - 1, 2_000, 1.0),
    ],
    ids=[
        "as estimated",
        "twice as many",
        "four times as many",
        "others must be there",
        "less: the header may not count the batch",
        "nothing",
        "back to the estimate",
        "small batches teach nothing",
    ],
)
def test_a_batch_that_is_alone_corrects_the_estimate(
    correction: float, estimate: int, told: int, expected: float
) -> None:
    known = after_create(deployment(correction=correction), estimate, told=told)
    assert known.correction == pytest.approx(expected)


def test_what_is_added_is_what_the_new_correction_does_not_explain() -> None:
    known = after_create(deployment(), told=2_000)
    assert known.correction == pytest.approx(1.3)
    assert known.extra == 700


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**9), st.integers(0, 10**7)), max_size=20))
def test_the_correction_stays_in_its_range_whatever_the_service_counts(looks: list[tuple[int, int, int]]) -> None:
    known = deployment()
    for estimate, told, beside in looks:
        known = after_create(known, estimate, told=told, beside=beside)
        assert CORRECTION_RANGE[0] <= known.correction <= CORRECTION_RANGE[1]


@given(st.floats(*CORRECTION_RANGE), st.floats(*CORRECTION_RANGE))
def test_the_correction_comes_to_what_the_service_really_counts(start: float, real: float) -> None:
    known = deployment(correction=start)
    for _ in range(30):
        known = after_create(known, 10**6, told=round(real * 10**6))
    assert known.correction == pytest.approx(real, rel=0.01)


# Refusals


def refusals_in_a_row(count: int) -> list[Deployment]:
    known, now, found = deployment(), NOON, []
    for _ in range(count):
        known = record_refusal(known, a_part(), first_wait=FIRST_WAIT, now=now)
        found.append(known)
        assert known.not_before is not None
        now = known.not_before
    return found


def test_each_refusal_doubles_the_wait_up_to_sixteenfold() -> None:
    waits = [(known.not_before or NOON) - (known.refused_at or NOON) for known in refusals_in_a_row(8)]
    assert waits == [FIRST_WAIT * factor for factor in (1, 2, 4, 8, 16, 16, 16, 16)]


def test_each_refusal_counts() -> None:
    assert [known.refusals for known in refusals_in_a_row(3)] == [1, 2, 3]


def test_batches_that_are_refused_together_count_once() -> None:
    part = a_part()
    first = record_refusal(deployment(), part, first_wait=FIRST_WAIT, now=NOON)
    assert record_refusal(first, part, first_wait=FIRST_WAIT, now=NOON) == first
    assert record_refusal(first, part, first_wait=FIRST_WAIT, now=NOON + FIRST_WAIT - timedelta(seconds=1)) == first
    assert record_refusal(first, part, first_wait=FIRST_WAIT, now=NOON + FIRST_WAIT) != first


def test_a_part_remembers_its_refusals_and_which_of_them_were_alone() -> None:
    part = a_part()
    for minutes, alone in enumerate([False, True, False, True]):
        part = a_part(refusals=refused(part, alone=alone, now=NOON + minutes * MINUTE))
    assert part.refusals == Refusals(at=NOON + 3 * MINUTE, count=4, alone=2, alone_since=NOON + MINUTE)


@pytest.mark.parametrize(
    ("count", "alone", "waits"), [(1, False, 5), (2, False, 10), (9, False, 80), (1, True, 5), (9, True, 5)]
)
def test_a_part_that_is_refused_beside_others_waits_longer_than_they_do(count: int, alone: bool, waits: int) -> None:
    """Each of its tries delays them all."""
    known = deployment(refusals=1, refused_at=NOON, not_before=NOON + FIRST_WAIT)
    until = wait_of(known, Refusals(at=NOON, count=count), alone=alone, first_wait=FIRST_WAIT)
    assert until == NOON + waits * MINUTE


def refused_alone(tokens: int, times: int = LONE_REFUSALS, requests: int = 10) -> Part:
    refusals = Refusals(at=NOON, count=times, alone=times, alone_since=NOON)
    return a_part(estimated_tokens=tokens, requests=requests, refusals=refusals)


@pytest.mark.parametrize(
    ("part", "known", "largest"),
    [
        (refused_alone(2 * LARGEST_FLOOR), deployment(), LARGEST_FLOOR),
        (refused_alone(2 * LARGEST_FLOOR), deployment(correction=2.0), 2 * LARGEST_FLOOR),
        (refused_alone(2 * LARGEST_FLOOR - 1), deployment(), None),
        (refused_alone(2 * LARGEST_FLOOR, LONE_REFUSALS - 1), deployment(), None),
        (refused_alone(2 * LARGEST_FLOOR, requests=1), deployment(), None),
        (refused_alone(2 * LARGEST_FLOOR), deployment(limit=8 * LARGEST_FLOOR), None),
        (refused_alone(4 * LARGEST_FLOOR), deployment(largest=11_000, largest_until=NOON + MINUTE), 11_000),
        (refused_alone(4 * LARGEST_FLOOR), deployment(largest=11_000, largest_until=NOON), 2 * LARGEST_FLOOR),
    ],
    ids=[
        "half of it",
        "as corrected",
        "too small to say anything of others",
        "not often enough",
        "a line cannot be halved",
        "it must fit, so others are in its way",
        "a smaller one is known",
        "a smaller one was known long ago",
    ],
)
def test_a_part_that_is_refused_alone_limits_the_size_of_others(
    part: Part, known: Deployment, largest: int | None
) -> None:
    """Each of its pieces, and each other large part, would have to be refused three times as well."""
    learned = record_refusal(known, part, first_wait=FIRST_WAIT, now=NOON)
    assert learned.largest_part(NOON) == largest
    assert learned.largest_part(NOON + LARGEST_FOR) is None


@pytest.mark.parametrize(
    ("known", "setting", "most"),
    [
        (deployment(), {}, None),
        (deployment(limit=5), {}, 5),
        (deployment(limit=5), {"gpt-4o-mini": 7}, 7),
        (deployment(limit=5, largest=3, largest_until=NOON + MINUTE), {}, 3),
        (deployment(largest=3, largest_until=NOON + MINUTE), {}, 3),
    ],
)
def test_the_most_tokens_of_a_part(known: Deployment, setting: dict[str, int], most: int | None) -> None:
    assert most_tokens(known, setting, NOON) == most


@pytest.mark.parametrize(
    ("known", "created", "forgotten"),
    [
        (deployment(refusals=2, refused_at=NOON, not_before=NOON + FIRST_WAIT), timedelta(seconds=1), True),
        (deployment(refusals=2, refused_at=NOON, not_before=NOON + FIRST_WAIT), timedelta(0), False),
        (deployment(refusals=2, refused_at=NOON, not_before=NOON + FIRST_WAIT), -timedelta(hours=1), False),
        (deployment(refusals=2), -timedelta(hours=1), True),
    ],
    ids=["a newer batch", "of the same moment", "an older batch", "refused at an unknown time"],
)
def test_refusals_are_forgotten_when_a_batch_created_after_them_runs(
    known: Deployment, created: timedelta, forgotten: bool
) -> None:
    part = a_part(created_at=NOON + created)
    assert clear_backoff(known, part) == (deployment() if forgotten else known)


def test_a_batch_that_runs_changes_nothing_where_nothing_was_refused() -> None:
    known = deployment(limit=100, extra=5, extra_until=NOON)
    assert clear_backoff(known, a_part(created_at=NOON)) == known


@pytest.mark.parametrize(("tokens", "largest"), [(10, 10), (11, None)])
def test_a_batch_that_runs_shows_that_one_of_its_size_is_not_too_large(tokens: int, largest: int | None) -> None:
    known = deployment(largest=10, largest_until=NOON + MINUTE)
    assert clear_backoff(known, a_part(estimated_tokens=tokens, created_at=NOON)).largest == largest


# Any history


class History:
    """A deployment, its parts and its service, which counts as we estimate; what its header counts is drawn."""

    LIMIT, PATIENCE = 100_000, timedelta(hours=1)

    def __init__(self, header: str, told: bool) -> None:
        self.header, self.now = header, NOON
        self.known = deployment(limit=self.LIMIT if told else None)
        self.parts: list[Part] = []
        self.others = 0

    def holding(self, but: Part | None = None) -> list[Part]:
        return [part for part in self.parts if holds_tokens(part) and part is not but]

    def arrives(self, tokens: int, requests: int) -> None:
        number = len(self.parts) + 1
        self.parts.append(a_part(number=number, estimated_tokens=tokens, requests=requests, waiting_since=self.now))

    def ticks(self) -> None:
        """The tick decides on all that wait, and reserves room for those that may go."""
        waiting = [part for part in self.parts if part.state is PartState.WAITING]
        others = [part for part in self.holding() if part.state is not PartState.WAITING]
        for decision in self.decide(waiting, others):
            self.put(decision.part, admitted_at=self.now if decision.may_go else None)

    def is_claimed(self, pick: int) -> None:
        """A part is admitted and claimed; its create comes later."""
        part = self.pick(pick, PartState.WAITING)
        if part is None:
            return
        (decision,) = self.decide([part], self.holding(but=part))
        if decision.may_go:
            limited = decision.limit is not None
            self.put(part, state=PartState.CLAIMED, admitted_at=None)
            enqueued = sum(each.estimated_tokens for each in self.holding())
            alone = len(self.holding()) == 1 and part.requests == 1
            assert not limited or enqueued <= self.LIMIT or alone
        else:
            self.put(part, admitted_at=None)

    def is_created(self, pick: int) -> None:
        part = self.pick(pick, PartState.CLAIMED)
        if part is None:
            return
        sent = [each for each in self.parts if each.state is PartState.OPEN]
        enqueued = sum(each.estimated_tokens for each in sent) + part.estimated_tokens
        if enqueued + self.others > self.LIMIT:
            refusals = refused(part, alone=not self.holding(but=part), now=self.now)
            part = self.put(part, state=PartState.WAITING, refusals=refusals)
            self.known = record_refusal(self.known, part, first_wait=FIRST_WAIT, now=self.now)
            return
        load = load_of(self.holding(but=part), now=self.now, patience=self.PATIENCE)
        part = self.put(part, state=PartState.OPEN, created_at=self.now)
        told = {"deployment": enqueued + self.others, "before": enqueued - part.estimated_tokens}
        self.known = record_headers(
            self.known,
            part,
            told=told.get(self.header, part.estimated_tokens),
            limit=self.LIMIT,
            load=load,
            now=self.now,
        )

    def ends(self, pick: int) -> None:
        part = self.pick(pick, PartState.OPEN)
        if part is not None:
            self.known = clear_backoff(self.known, part)
            self.put(part, state=PartState.ENDED)

    def decide(self, parts: list[Part], others: list[Part]) -> list[Decision]:
        load = load_of(others, now=self.now, patience=self.PATIENCE)
        limit = limit_of(self.known, {})
        return decide(parts, self.known, limit=limit, load=load, now=self.now, patience=self.PATIENCE)

    def pick(self, number: int, state: PartState) -> Part | None:
        parts = [part for part in self.parts if part.state is state]
        return parts[number % len(parts)] if parts else None

    def put(self, part: Part, **changes: Any) -> Part:
        changed = msgspec.structs.replace(part, **changes)
        self.parts[self.parts.index(part)] = changed
        return changed


picks = st.integers(0, 9)
happenings = st.one_of(
    st.tuples(st.just("arrives"), st.integers(1, 120_000), st.integers(1, 3)),
    st.tuples(st.just("ticks")),
    st.tuples(st.sampled_from(["is_claimed", "is_created", "ends"]), picks),
    st.tuples(st.sampled_from(["is_claimed", "is_created"]), st.just(0)),
    st.tuples(st.sampled_from(["is_claimed", "is_created"]), st.just(0)),
    st.tuples(st.just("others"), st.just(0) | st.integers(0, 100_000)),
    st.tuples(st.just("passes"), st.integers(0, 100)),
)


@pytest.mark.parametrize("header", ["deployment", "file", "before"])
@settings(max_examples=300)
@given(st.booleans(), st.lists(happenings, min_size=20, max_size=40))
def test_over_any_history_no_more_is_let_in_than_the_limit(
    header: str, told: bool, happened: list[tuple[Any, ...]]
) -> None:
    """By our own count, whatever the header counts: all of the deployment, the new file, or all but the new file."""
    history = History(header, told)
    for what, *given_ in happened:
        if what == "others":
            history.others = given_[0]
        elif what == "passes":
            history.now += given_[0] * MINUTE
        else:
            getattr(history, what)(*given_)
