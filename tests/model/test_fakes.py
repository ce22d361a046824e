"""The fakes have the public methods and signatures of the real classes, so that the app cannot tell them apart."""

import inspect

import pytest

from batch_fn.azure_openai.client import OpenAIBatches
from batch_fn.storage.blob_streams import Writer
from batch_fn.storage.blobs import Blobs
from batch_fn.storage.queues import Queues
from batch_fn.storage.tables import Tables
from tests.model.fakes import FakeBlobs, FakeQueues, FakeService, FakeTables, FakeWriter

HOW_FAKES_FAIL = {"busy", "lost", "once"}
HOW_HANDS_ARE_MADE = {"connect"}


@pytest.mark.parametrize(
    ("real", "fake"),
    [
        (Tables, FakeTables),
        (Blobs, FakeBlobs),
        (Writer, FakeWriter),
        (Queues, FakeQueues),
        (OpenAIBatches, FakeService),
    ],
)
def test_a_fake_has_the_methods_of_the_real_class(real: type, fake: type) -> None:
    assert _shape(fake) == _shape(real)


def _shape(kind: type) -> dict[str, list[tuple[str, object, object]]]:
    """Return name, kind and default of each parameter of each public method."""
    return {
        name: [(each.name, each.kind, each.default) for each in inspect.signature(method).parameters.values()]
        for name, method in vars(kind).items()
        if not name.startswith("_") and callable(method) and name not in HOW_FAKES_FAIL | HOW_HANDS_ARE_MADE
    }
