"""While a step waits for its turn, others go on: it looks again at what it had read."""

import contextlib
from collections.abc import Callable, Iterator
from types import ModuleType
from unittest import mock

import pytest

from batch_fn.steps import collection, quota, submission
from tests.model.fakes import FakeService
from tests.model.machine import NAMES, Delivery, Pipeline
from tests.model.world import Answer, End

MakeWait = Callable[[ModuleType, Callable[[], None]], None]


@pytest.fixture
def pipeline() -> Iterator[Pipeline]:
    """One drop, accepted, and its part asked for."""
    pipeline = Pipeline()
    pipeline.a_user_drops_a_file(name=NAMES[0], kind="one line")
    pipeline.the_event_of_a_drop_comes(name=NAMES[0], luck=None)
    yield pipeline
    pipeline.no_rule_is_broken()
    pipeline.teardown()


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> MakeWait:
    """Have the next turn of a step come late, when something else has happened."""

    def make_wait(step: ModuleType, meanwhile: Callable[[], None]) -> None:
        happenings = [meanwhile]

        @contextlib.contextmanager
        def turn(_: int) -> Iterator[bool]:
            if not happenings:
                yield True
                return
            happenings.pop()()
            yield False

        monkeypatch.setattr(step, "large_step_lock", turn)

    return make_wait


def test_for_a_part_that_is_sent_meanwhile_no_room_is_asked_again(pipeline: Pipeline, wait: MakeWait) -> None:
    wait(submission, lambda: pipeline.a_message_comes(pick=0, how=Delivery.TWICE, luck=None))
    with mock.patch.object(quota, "admit", side_effect=quota.admit) as admit:
        pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=None)
    assert admit.call_count == 1


def test_results_that_are_collected_meanwhile_are_not_downloaded_again(pipeline: Pipeline, wait: MakeWait) -> None:
    pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=None)
    pipeline.the_service_works(pick=0, does=Answer.ANSWERED)
    pipeline.the_service_works(pick=0, does=End.COMPLETED)
    pipeline.the_timer_ticks(luck=None)
    wait(collection, lambda: pipeline.a_message_comes(pick=0, how=Delivery.TWICE, luck=None))
    with mock.patch.object(FakeService, "download", autospec=True, side_effect=FakeService.download) as download:
        pipeline.a_message_comes(pick=0, how=Delivery.ONCE, luck=None)
    assert download.call_count == 1
