"""A picture in a speed run: its tokens, times and memory, and what is refused before."""

from __future__ import annotations

import io
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from pedsup_testing import mtmd, seeing
from pedsup_testing.lazy import require

from pedsup.gguf_file.projector import validate_projector
from pedsup_bench.speed.child import measured_picture
from pedsup_bench.speed.picture import noise_png, picture_of
from pedsup_bench.speed.plan import SpeedPlan
from pedsup_bench.speed.progress import picture_steps


def test_noise_is_a_png_of_its_size_and_another_for_each_sample() -> None:
    image = pytest.importorskip("PIL.Image", reason="pip install Pillow")
    opened = image.open(io.BytesIO(noise_png(37, 21, 0)))
    assert (opened.format, opened.mode, opened.size) == ("PNG", "RGB", (37, 21))
    assert len(np.unique(np.asarray(opened))) > 200
    assert noise_png(37, 21, 0) == noise_png(37, 21, 0) != noise_png(37, 21, 1)


def test_a_photo_is_another_picture_for_each_sample(tmp_path: Path) -> None:
    """Engines keep what they saw, by its digest."""
    photo = tmp_path / "p.png"
    photo.write_bytes(noise_png(40, 30, 0))
    shown = [picture_of(SpeedPlan(Path(), image=photo), number) for number in range(4)]
    assert len({picture.sha256 for picture in shown}) == 4
    assert len({picture.data for picture in shown}) == 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Gemma 4 that sees, with its projector beside it."""
    require("transformers", "pip install 'pedsup[train]'")
    from pedsup_export.plan.planner import make_plan
    from pedsup_export.plan.request import ExportRequest
    from pedsup_export.source.hub import ModelRef
    from pedsup_export.write.publish import execute

    mtmd.require()
    folder = tmp_path_factory.mktemp("sees")
    base = seeing.gemma4(folder / "base", width=256, template="{{ messages }}")
    out = folder / "m.gguf"
    request = ExportRequest(
        base=ModelRef(base, "tiny"), out=out, quant="F32", mmproj="BF16", threads=1
    )
    execute(*make_plan(request))
    return out


@pytest.mark.slow
def test_a_picture_is_measured_and_reported(bench, model: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    jsonschema = pytest.importorskip("jsonschema", reason="pip install 'pedsup[bench]'")
    out, html = tmp_path / "run.json", tmp_path / "run.html"
    done = bench("run", model, "--picture", "120x96", "--prompts", "16", "--depths", "0",
                 "--decode", "2", "--repeats", "2", "--loads", "1", "--threads", "1",
                 "--engine", "inprocess", "--out", out, "--html", html,
                 **mtmd.libraries())  # fmt: skip
    assert done.returncode == 0, done.stderr
    document = json.loads(out.read_text("utf-8"))
    file = resources.files("pedsup_bench") / "schema" / "run.schema.json"
    jsonschema.validate(document, json.loads(file.read_text("utf-8")))
    seen = document["picture"]
    projector = validate_projector(model.with_name("mmproj-m.gguf"))
    assert seen["tokens"] == projector.tokens(120, 96) == 80
    assert (seen["image"], seen["width"], seen["height"]) == ("noise", 120, 96)
    assert seen["projector_bytes"] == projector.header.file_size
    assert len(seen["samples"]) == 2 and min(seen["samples"]) > 0
    assert seen["peak"] >= seen["rss_anon"] > 0
    assert document["figures"]["picture"]["samples"] == seen["samples"]
    assert document["trust"]["projector"] is not None
    assert "/" not in json.dumps(document["settings"]), "no path of this machine"
    for text in (done.stdout, html.read_text("utf-8")):
        assert "a picture, seen and read" in text
        assert "takes 80 tokens of the context" in text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--mmproj", "p.gguf"], "has no effect without a picture"),
        (["--image", "a.png", "--picture", "64x64"], "exclude each other"),
        (["--picture", "64"], "width and height in pixels"),
        (["--picture", "64x64"], "cannot see pictures"),
        (["--image", "gone.png"], "gone.png"),
    ],
)
def test_what_cannot_be_measured_is_refused_before(  # type: ignore[no-untyped-def]
    bench, tiny_quantized, tmp_path: Path, options: list[str], said: str
) -> None:
    out = tmp_path / "run.json"
    done = bench("run", tiny_quantized["llama"], *options, "--quick", "--out", out, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr and not out.exists()


@pytest.mark.slow
def test_llama_server_is_measured_too(  # type: ignore[no-untyped-def]
    model: Path, native_tool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With a file: llama-server sees the same bytes anew for each sample."""
    monkeypatch.setenv("PEDSUP_LLAMA_SERVER", str(native_tool("llama-server")))
    photo = tmp_path / "p.png"
    photo.write_bytes(noise_png(120, 96, 0))
    plan = SpeedPlan(
        model, engine="server", n_threads=1, repeats=2, image=photo,
        projector=model.with_name("mmproj-m.gguf"),
    )  # fmt: skip
    steps: list[int] = []
    seen = measured_picture(plan, on_step=lambda: steps.append(1))
    assert (seen["tokens"], seen["image"]) == (80, "p.png")
    assert len(seen["samples"]) == 2
    assert len(steps) == len(picture_steps(plan))
    assert (seen["rss_anon"] or 0) > validate_projector(plan.projector or "").header.file_size
