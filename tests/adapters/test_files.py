"""What is written is there whole, or not at all."""

from contextlib import suppress

from adapters.files import whole_file, whole_folder


def test_a_file_takes_its_place_once_it_is_whole(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with whole_file(target) as file:
        file.write(b"new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o644


def test_a_file_that_was_not_written_to_its_end_leaves_the_old_one_and_nothing_beside(tmp_path):
    target = tmp_path / "a.json"
    target.write_text("old")
    with suppress(ZeroDivisionError), whole_file(target) as file:
        file.write(b"ne")
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert target.read_text() == "old"


def test_a_folder_takes_the_place_of_the_old_one_as_a_whole(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "stale").write_text("")
    with whole_folder(tmp_path / "a") as new:
        (new / "fresh").write_text("")
        assert (tmp_path / "a" / "stale").exists()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["fresh"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
