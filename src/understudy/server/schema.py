"""The OpenAPI description, as the service really answers."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

FOREIGN = ("HTTPValidationError", "ValidationError")  # FastAPI's own form of refusals, which is not ours


def describe(app: FastAPI) -> None:
    """Have /openapi.json say that a wrong request is answered by 400, in OpenAI's form, and never by 422."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(title=app.title, version=app.version, routes=app.routes)
            for path in schema["paths"].values():
                for operation in path.values():
                    operation["responses"].pop("422", None)
            for name in FOREIGN:
                schema["components"]["schemas"].pop(name, None)
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
