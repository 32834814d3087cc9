import pytest

from qformer.contracts import LoupeError
from train.cli import main
from train.embedded.config import SHIPPED, read_embedded


def test_the_shipped_config_fits_together():
    config = read_embedded(SHIPPED)
    qformer = config.bridge.qformer
    assert qformer.vocab_size == config.language.vocabulary
    assert qformer.encoder_hidden_size == config.vision.width
    assert config.bridge.language_width == config.language.width
    assert config.bridge.instruct
    assert config.bridge.max_instruction <= qformer.max_positions
    assert config.vision.size % 8 == 0
    assert config.segmenter.size % config.segmenter.patch == 0


def test_set_changes_one_value():
    changes = ["stage2.steps=7", "stage2.lr=1e-4", "prompt.turn= ", "domain=cats", "seed = 3"]
    config, plain = read_embedded(SHIPPED, changes), read_embedded(SHIPPED)
    assert (config.stage2.steps, config.stage2.lr, config.domain) == (7, 1e-4, "cats")
    assert config.seed == 3
    assert config.stage2.batch == plain.stage2.batch
    assert config.vision == plain.vision
    assert (
        read_embedded(SHIPPED, ["bridge.region.trainable=false"]).bridge.region.trainable is False
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("stage2.stepz=7", "unknown key 'embedded.toml.stage2.stepz'; did you mean 'steps'?"),
        ("stage3.steps=7", "did you mean 'stage"),
        ("stage2.steps=many", "stage2.steps='many': expected int"),
        ("stage2.steps", "write it as a.b=value"),
        ("seed.more=1", "seed is not a table"),
        ("pictures=2", "pictures=2 is less than a batch"),
        ("stage2.steps=0", "steps=0"),
    ],
)
def test_a_change_that_does_not_fit_is_one_line_that_says_so(change, says):
    with pytest.raises(LoupeError) as error:
        read_embedded(SHIPPED, [change])
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_config_is_named(tmp_path):
    with pytest.raises(LoupeError, match=r"there is no config .*nowhere\.toml"):
        read_embedded(tmp_path / "nowhere.toml")
    (tmp_path / "broken.toml").write_text("= 3")
    with pytest.raises(LoupeError, match=r"broken\.toml is not TOML"):
        read_embedded(tmp_path / "broken.toml")


def test_an_unknown_phase_is_an_error_that_lists_them(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["embedded", "--only", "stage3", "--out", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert "the phases are vision, language, segmenter, pool, stage1" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
