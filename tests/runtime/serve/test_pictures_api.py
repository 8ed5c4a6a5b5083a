"""Pictures in OpenAI's protocol: data URLs by OpenAI's own client, checked before they are used."""

from __future__ import annotations

import base64
import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from pedsup_testing.lazy import Lazy
from pedsup_testing.pictures import private_jpeg, private_png
from pedsup_testing.served import Served, events

from pedsup.pictures.limits import MAX_PICTURES
from pedsup.pictures.read import picture_from_bytes
from pedsup.serve.http_server import MAX_LARGE
from pedsup.serve.web import MAX_BODY, MAX_PICTURE_BODY

openai = Lazy("openai", reason="pip install openai")

JPEG, PNG = private_jpeg(), private_png()


def data_url(data: bytes, kind: str = "image/jpeg") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def digest(data: bytes) -> str:
    """How the scripted engine names a picture: the server must have taken its metadata out."""
    return f"[{picture_from_bytes(data, where='').sha256[:8]}]"


def part(data: bytes) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": data_url(data)}}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words}


def question(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"model": "pedsup", "messages": [{"role": "user", "content": [*parts]}]}


@pytest.fixture(scope="module")
def seeing(tmp_path_factory: pytest.TempPathFactory, edge_template: str) -> Iterator[Served]:
    """A scripted model with eyes: it answers with the beginnings of the pictures' digests."""
    from pedsup_testing import scripted_server
    from pedsup_testing.home import environment

    home = tmp_path_factory.mktemp("seeing")
    config = home / "config.json"
    document = {"template": edge_template, "folder": str(home), "history": False, "sees": True}
    config.write_text(json.dumps(document), encoding="utf-8")
    server = Served([scripted_server.__file__, str(config)], environment(home))
    yield server
    server.finish()


def refusal(server: Served, body: object) -> tuple[int, str, str, str]:
    """Status, code, parameter and message."""
    status, _, found = server.call("POST", "/v1/chat/completions", body)
    error = found["error"]
    return status, error["code"], error["param"], error["message"]


def test_the_model_sees_what_the_client_sends(seeing: Served) -> None:
    with openai.OpenAI(base_url=seeing.api_base, api_key=seeing.api_token, max_retries=0) as client:
        assert client.models.retrieve("pedsup").meta["vision"] is True
        answer = client.chat.completions.create(
            **question(part(JPEG), text("What is this?"), part(PNG)), stream=False
        )
    assert answer.choices[0].message.content.strip() == digest(JPEG) + digest(PNG)
    codes = [notice["code"] for notice in answer.pedsup["notices"]]
    assert codes == ["guard_picture"]


def test_earlier_pictures_stay_in_the_dialogue(seeing: Served) -> None:
    body = question(part(JPEG), text("What is this?"))
    body["messages"] += [
        {"role": "assistant", "content": "A rash."},
        {"role": "user", "content": "echo and now?"},
    ]
    status, _, found = seeing.call("POST", "/v1/chat/completions", body)
    assert (status, found["choices"][0]["message"]["content"]) == (200, "and now?")


PNG_PART = part(PNG)["image_url"]
WHERE = "messages[0].content[0].image_url.url"
REFUSED: dict[str, tuple[list[Any], str, str, str]] = {
    "http": ([{"type": "image_url", "image_url": {"url": "https://example.org/a.jpg"}}],
             "invalid_image", WHERE, "nothing is fetched"),
    "file": ([{"type": "image_url", "image_url": {"url": "file:///sdcard/a.jpg"}}],
             "invalid_image", WHERE, "nothing is fetched"),
    "base64": ([{"type": "image_url", "image_url": {"url": "data:image/png;base64,*"}}],
               "invalid_image", WHERE, "base64"),
    "cut": ([part(JPEG[:900])], "invalid_image", WHERE, "cut off"),
    "webp": ([part(b"RIFF\0\0\0\0WEBPVP8 ")], "invalid_image", WHERE, "WebP"),
    "no url": ([{"type": "image_url", "image_url": {}}], "invalid_value", WHERE, "data:image"),
    "not text": ([{"type": "image_url", "image_url": {"url": 5}}], "invalid_value", WHERE, "data:"),
    "no object": ([{"type": "image_url", "image_url": data_url(PNG)}], "invalid_value",
                  "messages[0].content[0].image_url", "object"),
    "detail": ([{"type": "image_url", "image_url": {**PNG_PART, "detail": "high"}}],
               "unsupported_parameter", "messages[0].content[0].image_url.detail", "not supported"),
    "too many": ([part(PNG)] * (MAX_PICTURES + 1), "invalid_value",
                 f"messages[0].content[{MAX_PICTURES}].image_url.url", "at most 8"),
    "file id": ([{"type": "file", "file": {"file_id": "a"}}], "unsupported_parameter",
                "messages[0].content[0]", "image_url"),
}  # fmt: skip


@pytest.mark.parametrize(("parts", "code", "param", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_picture_is_refused_by_name(
    seeing: Served, parts: list[Any], code: str, param: str, said: str
) -> None:
    found = refusal(seeing, question(*parts, text("What is this?")))
    assert found[:3] == (400, code, param)
    assert said in found[3]


def test_only_users_show_pictures(seeing: Served) -> None:
    body = question(text("Hi."))
    body["messages"].insert(0, {"role": "system", "content": [part(PNG)]})
    found = refusal(seeing, body)
    assert found[:3] == (400, "invalid_value", "messages[0].content")


def test_without_eyes_the_reason_is_said(echo: Served) -> None:
    """Also of a photo that is larger than any text may be."""
    large = {"type": "image_url", "image_url": {"url": data_url(JPEG + bytes(MAX_BODY))}}
    for one in (part(PNG), large):
        found = refusal(echo, question(one, text("What is this?")))
        assert found[:3] == (400, "unsupported_parameter", WHERE)
        assert "projector" in found[3]
    assert echo.call("GET", "/v1/models/pedsup")[2]["meta"]["vision"] is False


def test_a_photo_as_the_camera_wrote_it_fits(seeing: Served) -> None:
    """What follows the end of a JPEG counts for the body and is left out of the picture."""
    photo = JPEG + bytes(11 << 20)
    status, _, found = seeing.call("POST", "/v1/chat/completions", question(part(photo)))
    assert status == 200, found
    assert found["choices"][0]["message"]["content"].strip() == digest(JPEG)


def test_larger_bodies_are_refused_in_words(seeing: Served) -> None:
    body = question(part(JPEG + bytes(MAX_PICTURE_BODY)))
    status, _, found = seeing.call("POST", "/v1/chat/completions", body)
    assert (status, found["error"]["code"]) == (413, "bad_http")
    # Where no pictures come, and where the token is wrong, the limit is what it was.
    for path, headers in (
        ("/page/search", {}),
        ("/page/ask", {"Authorization": f"Bearer {seeing.api_token}"}),
        ("/v1/chat/completions", {"Authorization": "Bearer x"}),
    ):
        assert before_the_body(seeing, path, **headers) == 413


def before_the_body(server: Served, path: str, **headers: str) -> int:
    """The status of a request of 1 MiB of which no byte of the body was sent."""
    lines = {
        "Host": f"127.0.0.1:{server.port}",
        "Authorization": f"Bearer {server.token}",
        "Content-Type": "application/json",
        "Content-Length": str(1 << 20),
        **headers,
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as sock:
        sock.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\n".encode())
        return int(sock.recv(64).split()[1])


def test_few_large_requests_at_a_time(scripted: Any) -> None:
    """What waits with pictures is bounded; small requests are not held up by it."""
    server = scripted(*[["x"] * 40] * 9, sees=True, delay_s=0.05)
    large = question(part(JPEG + bytes(MAX_BODY)))

    def send() -> int:
        return int(server.call("POST", "/v1/chat/completions", large)[0])

    with ThreadPoolExecutor(MAX_LARGE + 3) as pool:
        results = [pool.submit(send) for _ in range(MAX_LARGE + 3)]
        time.sleep(0.5)
        assert server.call("GET", "/v1/models")[0] == 200
        statuses = sorted(result.result() for result in results)
    assert statuses == [200] * MAX_LARGE + [429] * 3
    assert send() == 200


# ---- what the page asks ----


def test_the_page_is_told_what_the_model_sees(seeing: Served, echo: Served) -> None:
    state = seeing.call("GET", "/page/state")[2]
    assert state["pictures"] == MAX_PICTURES
    assert set(state["picture_rule"]) == {"en", "es"}
    assert echo.call("GET", "/page/state")[2]["pictures"] == 0


def test_a_question_of_the_page_with_a_picture(scripted: Any) -> None:
    server = scripted(sees=True)
    found = server.ask("What is this?", pictures=[data_url(JPEG)], language="es")
    kinds = [kind for kind, _ in found]
    (guard,) = [data for kind, data in found if kind == "notice"]
    assert guard["code"] == "guard_picture" and "diagnóstico" in guard["text"]
    assert "".join(data["text"] for kind, data in found if kind == "answer").strip() == digest(JPEG)
    name = next(data["conversation"] for kind, data in found if kind == "started")
    assert kinds[-1] == "done"

    past = server.call("GET", f"/page/conversations/{name}")[2]["exchanges"]
    assert past[0]["pictures"] == [{"width": 96, "height": 64, "seen": True}]
    assert [guard["en"] for guard in past[0]["guards"]]
    # A second question still sees it.
    server.ask("echo Ya.", conversation=name)
    # Nothing of the picture is on the disk.
    kept = next(server_folder(server).glob("*.jsonl")).read_bytes()
    assert base64.b64encode(JPEG[:30])[:30] not in kept and b"base64" not in kept


def server_folder(server: Served) -> Any:
    from pathlib import Path

    return Path(json.loads(Path(server.process.args[2]).read_text("utf-8"))["folder"])  # type: ignore[index]


@pytest.mark.parametrize(
    ("pictures", "said"),
    [("x", "list"), (["https://example.org"], "nada"), ([data_url(b"GIF89a")], "GIF"),
     ([data_url(PNG)] * 9, "8")],
)  # fmt: skip
def test_what_the_page_may_not_send(seeing: Served, pictures: Any, said: str) -> None:
    body = {"text": "?", "pictures": pictures, "language": "es"}
    status, _, found = seeing.call("POST", "/page/ask", body)
    assert status == 400
    assert said in (
        found["error"]["message"] if isinstance(found, dict) else events(found.decode())
    )
