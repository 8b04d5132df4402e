"""What the API says of itself is tried out by a machine: no input makes it fail, and answers are what it promised."""

from __future__ import annotations

import os
from typing import Any

import pytest

from pipeline.serving.gallery.access import Access
from pipeline.serving.gallery.app import gallery_api
from tests.support.gallery import Api, drawing
from tests.support.requirements import missing

try:
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_schema_conformance,
        status_code_conformance,
    )
except ImportError:  # an environment without it can still run everything else
    schemathesis = None

EXAMPLES = int(os.environ.get("OMOTE_FUZZ_EXAMPLES", "4"))


@pytest.fixture
def description(gallery: Api) -> Any:
    if schemathesis is None:
        missing("schemathesis is not installed")
    gallery.enrol("ada", (200, 20, 30))
    app = gallery_api(lambda namespace: gallery.service, Access(gallery.keys))  # one that may be shut down
    schema = schemathesis.openapi.from_dict(app.openapi())
    schema.app = app
    return schema


def test_no_input_makes_it_fail(gallery: Api, description: Any) -> None:
    checks = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
    tried = 0
    for found in description.get_all_operations():
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            derandomize="OMOTE_FUZZ_EXAMPLES" not in os.environ,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def attempt(case: Any) -> None:
            nonlocal tried
            tried += 1
            case.call_and_validate(headers={"x-api-key": gallery.key("admin")}, checks=checks)

        attempt()
    assert tried > 60 * min(EXAMPLES, 2)
    assert gallery.ask("POST", "/v2/faces/detect", files={"file": drawing((200, 20, 30))}).status_code == 200
