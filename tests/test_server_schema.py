"""The OpenAPI description and the service agree: whatever is sent, the answer is one that is described, and no 5xx."""

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving import live, model_set
from understudy.server import ServerLimits
from understudy.server.app import create_app

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
OPERATIONS = {
    "GET": ["/health", "/ready", "/metrics", "/v1/models", "/v1/models/{model}"],
    "POST": ["/v1/completions", "/v1/denoise"],
}
EXAMPLES = {"GET": 5, "POST": 60}


@pytest.fixture(scope="module")
def service():
    app = create_app(model_set(), ServerLimits(steps=64, samples=4))
    with live(app) as address:
        yield schemathesis.openapi.from_dict(app.openapi()), address


CASES = [(method, path, "positive") for method, paths in OPERATIONS.items() for path in paths]
CASES += [("POST", path, "negative") for path in OPERATIONS["POST"]]


@pytest.mark.parametrize(("method", "path", "mode"), CASES)
def test_answers_are_as_described(service, method, path, mode):
    schema, address = service
    cases = schema[path][method].as_strategy(generation_mode=GenerationMode(mode))

    @hypothesis.given(cases)
    @hypothesis.settings(
        max_examples=EXAMPLES[method],
        derandomize=True,
        database=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case):
        response = case.call(base_url=address)
        case.validate_response(response, checks=CHECKS)
        assert mode == "positive" or response.status_code >= 400, "what breaks the schema is refused"

    check()


def test_the_description_names_every_path():
    app = create_app(model_set())
    described = app.openapi()["paths"]
    assert {(method.upper(), path) for path, operations in described.items() for method in operations} == {
        (method, path) for method, paths in OPERATIONS.items() for path in paths
    }
    for operations in described.values():
        for operation in operations.values():
            assert "422" not in operation["responses"]
            assert operation["description"]
