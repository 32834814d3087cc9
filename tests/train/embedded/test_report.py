"""docs/embedded.md, written from the notes that a run leaves."""

import json

import pytest

from train.embedded.evaluate import TARGETS
from train.embedded.report import MEANINGS, REMARKS, write_report


@pytest.fixture
def run(tmp_path):
    """The folder of a run: everything reached, but for counting; no ablations."""
    row = {"right": 0.999, "without_regions": None, "majority": 0.25, "asked": 40}
    types = {name: dict(row) for name in MEANINGS}
    types["count"]["right"] = 0.5
    types["what"]["without_regions"] = 0.125
    overlap = dict.fromkeys(("click, seen", "box, seen", "click, held out"), 0.95)
    held_out = dict.fromkeys(("what", "colour", "kind"), 0.9)
    evaluation = {"pictures": 500, "types": types, "caption_f1": 0.75, "segmenter": overlap}
    notes = {"evaluation": evaluation | {"held_out": held_out}}
    notes |= {name: {"steps": 70, "seconds": 600} for name in ("vision", "language", "segmenter")}
    notes |= {name: {"steps": 90, "seconds": 1200} for name in ("stage1", "stage2")}
    for name, note in notes.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(note))
    return tmp_path


def rows(page: str) -> dict[str, list[str]]:
    """The first cell of each line of a table -> the others."""
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in page.splitlines()
        if line.startswith("|")
    ]
    return {first: rest for first, *rest in cells}


def test_each_type_stands_beside_its_target_and_a_miss_is_said(run, tiny_config):
    write_report(run, tiny_config, run / "page.md")
    table = rows((run / "page.md").read_text())
    assert table["what"][1:] == ["0.999", f"{TARGETS['what']:.2f}", "0.12", "0.25", "40"]
    assert table["count"][1] == "0.500 (missed)"
    assert table["caption, F1 of (colour, kind) pairs named"] == ["0.750 (missed)", "0.90"]
    assert table["segmenter, mean IoU of a box"] == ["0.950", "0.92"]
    assert table["stage2"] == ["90", "20 min"]


def test_ablations_are_a_table_where_they_were_measured(run, tiny_config):
    write_report(run, tiny_config, run / "page.md")
    assert "--only ablations" in (run / "page.md").read_text()
    arms = {"all": {"what": 0.9, "count": 0.7}, "without LoRA": {"what": 0.5, "count": 0.25}}
    (run / "ablations.json").write_text(json.dumps(arms))
    write_report(run, tiny_config, run / "page.md")
    text = (run / "page.md").read_text()
    assert "--only ablations" not in text
    assert "| count | 0.70 | 0.25 |" in text
    assert "| mean | 0.800 | 0.375 |" in text


def test_remarks_written_by_hand_outlive_a_new_report(run, tiny_config):
    page = run / "page.md"
    page.write_text(f"# Old\nold figures\n{REMARKS}\n\nCounting is hard.\n")
    write_report(run, tiny_config, page)
    text = page.read_text()
    assert "old figures" not in text
    assert text.endswith(f"{REMARKS}\n\nCounting is hard.\n")


def test_a_run_that_was_not_evaluated_has_no_report(run, tiny_config):
    (run / "evaluation.json").unlink()
    with pytest.raises(FileNotFoundError):
        write_report(run, tiny_config, run / "page.md")
