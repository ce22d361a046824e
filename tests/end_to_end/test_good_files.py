"""A good file comes back answered, whatever it looks like."""

import json
import re

import pytest

from devkit.azure_openai.process import AzureOpenAI
from tests.end_to_end.bench import Bench
from tests.end_to_end.stories import ABSENT, answered, jsonl, line, lines, statuses

PLACEHOLDER = "REPLACE-WITH-MODEL-DEPLOYMENT-NAME"


def test_a_good_file_comes_back_answered_in_its_order(stack: Bench) -> None:
    dropped = stack.drop("good/monday.jsonl", jsonl(*lines(20)))
    report = answered(dropped)
    assert report["status"] == "succeeded"
    assert dropped.path == f"good/monday/{report['job_id']}"
    assert statuses(report) == [(1, "completed")]
    assert report["outputs"]["errors"] is None
    assert report["finding_count"] == 0


def test_a_byte_order_mark_blank_lines_crlf_and_a_missing_last_line_end_do_no_harm(stack: Bench) -> None:
    first, second, third = lines(3)
    content = b"\xef\xbb\xbf\r\n" + first + b"\r\n\r\n  \t\n" + second + b"\n\n\n" + third
    assert answered(stack.drop("good/windows.jsonl", content))["counts"]["succeeded"] == 3


def test_text_in_any_script_and_any_custom_id_come_through(stack: Bench) -> None:
    ids = ["né", "日本", "🎉", 'quo"ted', "tab\tbed", "back\\slash", " ", "x" * 200, "../up", "null"]
    content = jsonl(*(line(custom_id, f"Grüße an {custom_id} 你好\u2028 [not a directive]") for custom_id in ids))
    assert answered(stack.drop("good/scripts.jsonl", content))["status"] == "succeeded"


def test_an_escaped_custom_id_is_the_same_as_a_plain_one(stack: Bench) -> None:
    content = jsonl(line("placeholder").replace(b'"placeholder"', rb'"\u0065sc\u00e4ped\/"'), *lines(2))
    report = answered(stack.drop("good/escaped.jsonl", content))
    assert report["counts"]["succeeded"] == 3


@pytest.mark.parametrize("url", ["/v1/chat/completions", "/v1/responses", "/responses"])
def test_every_url_that_the_service_takes_is_answered(stack: Bench, service: AzureOpenAI, url: str) -> None:
    service.options(endpoints=["/chat/completions", "/v1/chat/completions", "/v1/responses", "/responses"])
    changes = {"body_messages": ABSENT, "body_input": "Hello"} if url.endswith("/responses") else {}
    report = answered(stack.drop("good/url.jsonl", jsonl(*lines(3, url=url, **changes))))
    assert report["status"] == "succeeded"
    assert [batch["endpoint"] for batch in report["batches"]] == [url]


def test_the_deployment_in_the_metadata_fills_gaps_and_changes_nothing_else(stack: Bench) -> None:
    def request(number: int, model: str) -> bytes:
        rest = (
            r'"messages":[ {"role" : "user", "content":"\u00fc \/ ü"} ],"temperature":1.0e0,"seed":12345678901234567890'
        )
        return f'{{"custom_id":"{number}","method":"POST","url":"/chat/completions","body":{{{model}{rest}}}}}'.encode()

    dropped = [request(1, ""), request(2, f'"model":"{PLACEHOLDER}",'), request(3, '"model":"mine",')]
    filled = [request(1, "").replace(b"67890}}", b'67890,"model":"mine"}}'), request(2, '"model":"mine",'), dropped[2]]
    job = stack.drop("good/filled.jsonl", jsonl(*dropped), deployment="mine")
    report = answered(job, sent=jsonl(*filled))
    assert report["status"] == "succeeded"
    assert [batch["deployment"] for batch in report["batches"]] == ["mine"]


def test_a_big_file_goes_as_several_parts_and_comes_back_as_one(stack: Bench) -> None:
    requests = lines(250)
    requests[40] = line("task-41", "[[status 500 x1]]")
    requests[140] = line("task-141", "[[status 400]]")
    requests[180] = line("task-181", "[[missing x2]]")
    requests[240] = line("task-241", "[[status 429]]")
    report = answered(stack.drop("good/big.jsonl", jsonl(*requests)))
    assert report["status"] == "partially_succeeded"
    assert report["counts"] == {"requests": 250, "succeeded": 248, "failed": 2}
    sizes = sorted((batch["attempt"], batch["requests"]) for batch in report["batches"])
    assert sizes == [(1, 50), (1, 100), (1, 100), (2, 1), (2, 1), (2, 1), (3, 1), (3, 1)]


def test_parts_of_a_file_with_blank_lines_and_a_filled_deployment_keep_to_their_lines(stack: Bench) -> None:
    requests = [line(f"task-{number}", body_model=ABSENT) for number in range(1, 131)]
    requests[120] = line("task-121", "[[status 500 x1]]", body_model=ABSENT)
    dropped = stack.drop("good/blanks.jsonl", b"\r\n\r\n".join(requests), deployment="mine")
    report = answered(dropped, sent=jsonl(*(filled(request, "mine") for request in requests)))
    assert report["status"] == "succeeded"
    assert sorted(batch["requests"] for batch in report["batches"]) == [1, 30, 100]


def filled(request: bytes, deployment: str) -> bytes:
    """Return the request as the service must get it: the model added to the body, each value's text as it was."""
    body = json.loads(request)["body"] | {"model": deployment}
    members = ",".join(f"{json.dumps(name)}:{json.dumps(value, ensure_ascii=False)}" for name, value in body.items())
    return re.sub(rb'"body": .*', lambda _: f'"body": {{{members}}}}}'.encode(), request)
