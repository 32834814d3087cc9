"""What is free, in a container too."""

import pytest

from adapters import memory


@pytest.fixture
def container(tmp_path, monkeypatch):
    """container(limit, used, of which files it has read): in bytes, as the kernel tells them."""

    def told(limit, used, files):
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        (tmp_path / "memory.current").write_text(f"{used}\n")
        (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {files}\nslab 3\n")
        monkeypatch.setattr(memory, "CGROUP", tmp_path)

    return told


def test_what_a_container_has_read_does_not_stand_in_the_way(container):
    container(10_000, 9_500, 9_000)
    assert memory.available("cpu") == 9_500
    container(10_000, 9_500, 0)
    assert memory.available("cpu") == 500


def test_a_container_without_a_limit_has_what_the_machine_has(container, monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CGROUP", tmp_path / "none")
    alone = memory.available("cpu")
    container("max", 9_500, 0)
    here = memory.available("cpu")
    assert alone > 10**8
    assert here > 10**8
