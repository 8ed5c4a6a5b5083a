"""Every operation of the OpenAPI document against a running server, by schemathesis.

No file of tests that pytest finds by itself: `test_openapi` runs it with the server's port and
token in the environment.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, settings

from pedsup.serve import command
from pedsup.serve.model import ALIAS

DOCUMENT = json.loads((Path(command.__file__).parent / "openapi.json").read_text("utf-8"))
schema = schemathesis.openapi.from_dict(DOCUMENT)
BOOLEAN = {"type": "boolean"}
QUESTION = {"role": "user", "content": "Hi."}


def _may_be_ours(body: dict[str, Any]) -> bool:
    """Whether model and limit are valid: what is invalid must stay so."""
    model, limit = body.get("model"), body.get("max_tokens")
    named = isinstance(model, str) and 0 < len(model) <= 256
    return named and (limit is None or (type(limit) is int and limit >= 1))


def mended(body: Any) -> Any:
    """Half of the questions are for the model that is there, and short.

    Two things that JSON Schema cannot say are seen to: the last message is the user's, and not
    every JSON schema can be made a grammar.
    """
    if not isinstance(body, dict):
        return body
    body = dict(body)
    if _may_be_ours(body) and random.Random(str(body)).random() < 0.5:
        body |= {"model": ALIAS, "max_tokens": 2}
    if isinstance(body.get("messages"), list) and body["messages"]:
        body["messages"] = [*body["messages"], QUESTION]
    form = body.get("response_format")
    if isinstance(form, dict) and isinstance(form.get("json_schema"), dict):
        inner = form["json_schema"]
        if isinstance(inner.get("schema"), dict):
            body["response_format"] = {**form, "json_schema": {**inner, "schema": BOOLEAN}}
    return body


@schema.parametrize()
@settings(
    max_examples=12, deadline=None, derandomize=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
def test_the_server_does_what_the_document_says(case: Any) -> None:
    """Status codes, content types and bodies as described; bad data and no token refused."""
    case.body = mended(case.body)
    response = case.call(
        base_url=f"http://127.0.0.1:{os.environ['PEDSUP_PORT']}",
        headers={"Authorization": f"Bearer {os.environ['PEDSUP_TOKEN']}"},
    )
    # 512 empty messages are valid, and too long for the small context of this test; and its model
    # sees no pictures.
    known = ("context_length_exceeded", "image_url.url", '"pictures[')
    if response.status_code != 400 or not any(word in response.text for word in known):
        case.validate_response(response)
