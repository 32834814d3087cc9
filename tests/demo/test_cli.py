import io
import json
import shutil
import struct
import subprocess
import sys
import types
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from demo import cli, doctor
from demo.commands import common
from qformer.contracts import Decoding, LoupeError
from qformer.view import View

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def mask(tmp_path):
    made = Image.new("L", (60, 40))
    made.paste(255, (5, 5, 25, 20))
    made.save(tmp_path / "mask.png")
    return tmp_path / "mask.png"


def test_help_answers_without_loading_anything_heavy():
    program = (
        "import sys; from demo.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'gradio', 'transformers'} & set(sys.modules)))"
    )
    for command in ([], ["ask"], ["caption"], ["segment"], ["chat"], ["doctor"]):
        run = subprocess.run(
            [sys.executable, "-c", program, *command, "--help"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert "examples:" in run.stdout
        assert run.stdout.splitlines()[-1] == "[]"


def test_an_answer_is_the_one_the_assistant_gives(loupe, picture, tiny_assistant, image):
    code, out, _ = loupe("ask", picture, "what is this?", "--point", "10,10")
    view = tiny_assistant.encode(image)
    assert code == 0
    assert out == view.ask("what is this?", [view.click(10, 10)]) + "\n"


def test_regions_come_in_the_order_given(loupe, picture, mask, monkeypatch):
    prompts = []
    segment = View.segment

    def spy(view, points=(), box=None, logits=None):
        prompts.append((list(points), box))
        return segment(view, points, box, logits)

    monkeypatch.setattr(View, "segment", spy)
    code, out, _ = loupe(
        "ask", picture, "which?", "--box", "5,5,30,30", "--not-point", "7,7", "--mask", mask,
        "--point", "10,10", "--not-point", "50,30", "--not-point=40,30", "--point", "30,20",
        "--json",
    )  # fmt: skip
    assert code == 0
    assert prompts == [
        ([(7, 7, 0)], (5, 5, 30, 30)),
        ([(10, 10, 1), (50, 30, 0), (40, 30, 0)], None),
        ([(30, 20, 1)], None),
    ]
    answer = json.loads(out)
    told = {"image", "question", "answer", "regions", "familiar", "seconds", "decoding"}
    told |= {"grounding", "composer", "preset"}
    assert answer.keys() == told
    assert answer["regions"][1] == {"box": [5, 5, 25, 20], "area": 300, "score": None}
    assert len(answer["regions"]) == 4


def test_picture_and_question_may_stand_among_the_options(loupe, picture):
    plain = loupe("ask", picture, "what is this?", "--point", "10,10")
    assert plain[0] == 0
    assert loupe("ask", picture, "--point", "10,10", "what is this?") == plain
    assert loupe("ask", "--point", "10,10", picture, "what is this?") == plain


def test_coordinates_are_those_of_the_upright_picture(loupe, tmp_path, image):
    exif = Image.Exif()
    exif[274] = 6  # to be shown turned by a quarter
    turned = Image.fromarray(np.rot90(image.numpy()).copy())
    turned.save(tmp_path / "turned.png", exif=exif)
    assert loupe("ask", tmp_path / "turned.png", "what?", "--point", "50,10")[0] == 0
    assert loupe("ask", tmp_path / "turned.png", "what?", "--point", "10,50")[0] == 2


def test_caption(loupe, picture, tiny_assistant, image):
    code, out, _ = loupe("caption", picture)
    assert (code, out) == (0, tiny_assistant.encode(image).caption() + "\n")
    assert json.loads(loupe("caption", picture, "--json")[1])["caption"] + "\n" == out


def test_segment_writes_what_the_segmenter_found(loupe, picture, tmp_path, tiny_assistant, image):
    out = tmp_path / "cut.png"
    code, text, _ = loupe("segment", picture, "--point", "10,10", "--out", out)
    assert code == 0
    assert str(out) in text
    region_mask = tiny_assistant.encode(image).click(10, 10).region_mask
    assert (np.asarray(Image.open(out).convert("L")) == region_mask.numpy() * 255).all()


def test_segment_numbers_the_files_of_several_regions(loupe, picture, tmp_path):
    seen = tmp_path / "seen.png"
    code, text, _ = loupe(
        "segment", picture, "--point", "10,10", "--box", "5,5,30,30",
        "--out", tmp_path / "cut.png", "--overlay", seen, "--json",
    )  # fmt: skip
    assert code == 0
    files = [one["file"] for one in json.loads(text)["regions"]]
    assert files == [str(tmp_path / "cut-1.png"), str(tmp_path / "cut-2.png")]
    assert Image.open(seen).size == (60, 40)


def test_an_unfamiliar_picture_is_said_to_be_one_on_standard_error(loupe, picture, monkeypatch):
    assert loupe("ask", picture, "what?")[2] == ""
    monkeypatch.setattr(View, "familiar", False, raising=False)
    code, out, error = loupe("ask", picture, "what?", "--json")
    assert code == 0
    assert "tiny random weights" in error
    assert json.loads(out)["familiar"] is False


def png(width, height):
    """A tiny file that claims to be huge."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(width + 1) * height, 9)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def encoded(picture, form, **options):
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
BAD_PICTURES = {
    "not an image": b"hello, this is text",
    "zero bytes": b"",
    "truncated": encoded(NOISE, "PNG")[:-900],
    "truncated JPEG": encoded(NOISE, "JPEG")[:-900],
    "huge": png(12000, 12000),
}
ODD_PICTURES = {
    "16-bit": encoded(
        Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27), "PNG"
    ),
    "CMYK": encoded(NOISE.convert("CMYK"), "JPEG"),
    "palette with alpha": encoded(NOISE.convert("P"), "PNG", transparency=0),
    "animated": encoded(NOISE, "GIF", save_all=True, append_images=[NOISE.rotate(90)]),
    "1x1": encoded(Image.new("RGB", (1, 1)), "PNG"),
}


def one_line(code, out, error):
    """What a user sees of a mistake."""
    assert code == 2
    assert error.count("\n") == 1
    assert "Traceback" not in error
    assert out == ""
    return error


@pytest.mark.parametrize("content", BAD_PICTURES.values(), ids=BAD_PICTURES.keys())
def test_a_bad_picture_is_one_line(loupe, tmp_path, content):
    (tmp_path / "bad.png").write_bytes(content)
    assert "bad.png" in one_line(*loupe("ask", tmp_path / "bad.png", "what is this?"))


@pytest.mark.parametrize("content", ODD_PICTURES.values(), ids=ODD_PICTURES.keys())
def test_an_odd_picture_is_answered(loupe, tmp_path, content):
    (tmp_path / "odd.png").write_bytes(content)
    code, out, _ = loupe("ask", tmp_path / "odd.png", "what is this?", "--json")
    assert code == 0
    assert "answer" in json.loads(out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["what?", "--point", "60,10"], "outside the picture"),
        (["what?", "--point", "-3,5"], "outside the picture"),
        (["what?", "--box", "5,5,5,30"], "no area"),
        (["what?", "--box", "30,5,10,30"], "no area"),
        (["what?", "--box", "5,5,99,30"], "leaves the picture"),
        (["what?", "--mask", "none.png"], "no file"),
        (["what?", "--point", "5"], "is not X,Y"),
        (["what?", "--point", "a,b"], "is not X,Y"),
        (["what?", "--point", "nan,1"], "is not X,Y"),
        (["what?", "--box", "1,2,3"], "is not X0,Y0,X1,Y1"),
        (["what?", "--not-point", "5,5"], "give one first"),
        (["what?", "--mask", "m.png", "--not-point", "5,5"], "give one first"),
        (["what?", "--pont", "5,5"], "unknown"),
        (["what?", "more"], "unknown: more"),
        ([""], "question is empty"),
        (["  "], "question is empty"),
        (["why " * 500], "tokens"),
        ([], "give IMAGE and QUESTION"),
        (["what?", "--batch", "q.jsonl"], "--batch brings its own"),
    ],
)
def test_a_wrong_call_is_one_line(loupe, picture, words, says):
    assert says in one_line(*loupe("ask", picture, *words))


@pytest.mark.parametrize(
    ("size", "fill", "says"), [((60, 40), 0, "empty"), ((20, 10), 255, "20x10")]
)
def test_a_bad_mask_is_one_line(loupe, picture, tmp_path, size, fill, says):
    Image.new("L", size, fill).save(tmp_path / "bad.png")
    assert says in one_line(*loupe("ask", picture, "what?", "--mask", tmp_path / "bad.png"))


def test_segment_and_caption_fail_in_one_line_too(loupe, picture, tmp_path):
    assert "nothing is pointed at" in one_line(*loupe("segment", picture, "--out", "m.png"))
    nowhere = tmp_path / "none" / "m.png"
    assert "cannot write" in one_line(
        *loupe("segment", picture, "--point", "9,9", "--out", nowhere)
    )
    odd = tmp_path / "m.what"
    assert "cannot write" in one_line(*loupe("segment", picture, "--point", "9,9", "--out", odd))
    assert "no file" in one_line(*loupe("caption", "none.png"))
    assert one_line(*loupe("sing"))
    assert one_line(*loupe())


def test_a_chat_that_others_can_reach_asks_for_a_password(loupe):
    assert "--auth" in one_line(*loupe("chat", "--host", "0.0.0.0"))
    assert "NAME:HASH" in one_line(*loupe("chat", "--auth", "name:password"))


def test_a_password_becomes_a_hash_that_lets_in(loupe, monkeypatch):
    from demo.serve.auth import Logins

    monkeypatch.setattr("sys.stdin", io.StringIO("correct horse\n"))
    code, out, _ = loupe("chat", "--hash-password")
    assert code == 0
    assert "horse" not in out
    logins = Logins([f"ann:{out.strip()}"])
    assert logins.check("Bearer ann:correct horse", "here") == "ann"
    assert logins.check("Bearer ann:correct hose", "here") is None
    monkeypatch.setattr("sys.stdin", io.StringIO("short\n"))
    assert "at least 8" in one_line(*loupe("chat", "--hash-password"))


@pytest.fixture
def model(tiny_folder, tmp_path):
    """A copy of the tiny model, to be damaged."""
    whole = tiny_folder("loupe").parent
    return Path(shutil.copytree(whole, tmp_path / "model")) / "loupe"


def run_model(capsys, picture, model):
    code = cli.main(["ask", str(picture), "what?", "--model", str(model)])
    return code, *capsys.readouterr()


def test_a_model_is_named_by_its_folder(model, picture, capsys, tiny_assistant, image):
    code, out, _ = run_model(capsys, picture, model)
    assert (code, out) == (0, tiny_assistant.encode(image).ask("what?") + "\n")


@pytest.mark.parametrize("part", ["model.safetensors", "../vision/model.safetensors"])
def test_a_model_that_lacks_a_file_or_has_a_flipped_byte_is_one_line(model, picture, capsys, part):
    content = bytearray((model / part).read_bytes())
    content[len(content) // 2] ^= 1
    (model / part).write_bytes(content)
    assert "damaged" in one_line(*run_model(capsys, picture, model))
    (model / part).unlink()
    assert "missing" in one_line(*run_model(capsys, picture, model))


def test_a_folder_that_is_no_model_is_one_line(picture, tmp_path, capsys):
    assert "is not a model" in one_line(*run_model(capsys, picture, tmp_path))


def test_a_preset_is_taken_and_changed_by_its_options():
    own = Decoding(max_new_tokens=48)

    def wanted(*words):
        return common.decoding_wanted(cli.parse(["ask", "picture.png", "why?", *words]), own)

    assert wanted() == own
    assert wanted("--preset", "caption") == Decoding(30, min_new_tokens=8, beams=5)
    assert wanted("--preset", "caption", "--beams", "1").beams == 1
    short = wanted("--preset", "caption", "--max-new-tokens", "4")
    assert (short.max_new_tokens, short.min_new_tokens) == (4, 4)
    with pytest.raises(LoupeError, match="exclude each other"):
        wanted("--preset", "vqa", "--temperature", "0.7")


def test_answers_say_how_they_were_written(model, picture, capsys):
    words = ["--model", str(model), "--max-new-tokens", "3", "--dtype", "bf16", "--json"]
    assert cli.main(["ask", str(picture), "what is this?", *words]) == 0
    assert json.loads(capsys.readouterr().out)["decoding"]["max_new_tokens"] == 3
    assert cli.main(["caption", str(picture), *words]) == 0
    assert json.loads(capsys.readouterr().out)["decoding"]["max_new_tokens"] == 3


def test_train_is_reached_lazily_and_its_exit_code_kept(monkeypatch):
    calls = []
    fake = types.ModuleType("train.cli")
    fake.main = lambda argv: calls.append(argv) or 3
    monkeypatch.setitem(sys.modules, "train", types.ModuleType("train"))
    monkeypatch.setitem(sys.modules, "train.cli", fake)
    assert cli.main(["train", "embedded", "--help"]) == 3
    assert calls == [["embedded", "--help"]]


def test_doctor_reports_a_line_each_or_json(capsys, monkeypatch):
    whole = doctor.Check("weights", "ok", "whole")
    monkeypatch.setattr(doctor, "weights_check", lambda model: whole)
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    for name in ("python", "torch", "transformers", "torchvision", "chromium", "cores", "memory"):
        assert name in text
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_doctor_names_what_is_broken(capsys, monkeypatch, model):
    monkeypatch.setattr(doctor, "folder_of", lambda name: model)
    assert doctor.weights_check("photos").state == "ok"
    (model / "model.safetensors").unlink()
    broken = doctor.weights_check("photos")
    assert broken.state == "broken"
    assert "model.safetensors is missing" in broken.says
    monkeypatch.setattr(doctor, "weights_check", lambda name: broken)
    assert cli.main(["doctor"]) == 1
    assert "BROKEN" in capsys.readouterr().out


def test_the_version_is_the_installed_ones(loupe):
    from importlib.metadata import version

    assert loupe("--version") == (0, f"loupe {version('loupe-assistant')}\n", "")


def test_a_command_that_is_misspelt_is_answered_with_the_nearest(loupe):
    code, out, said = loupe("aks", "scene.png")
    assert (code, out) == (2, "")
    assert said == "loupe: there is no command 'aks'; did you mean 'ask'? (see loupe --help)\n"


@pytest.mark.parametrize("line", ["train", "data", "eval --bogus", "train segmenter", "peers x"])
def test_every_command_complains_in_one_line_that_names_its_help(loupe, line):
    code, out, said = loupe(*line.split())
    assert (code, out) == (2, "")
    assert said.count("\n") == 1
    assert said.endswith(" --help)\n")
