import json

import pytest
import tiny

from adapters.tokenizer import open_tokenizer, save_sentencepiece
from qformer.contracts import CheckpointError

TEXTS = [
    "what is this?",
    "A Small  RED circle ",
    " region 1:",
    "ünïcode ☃ 日本, ﬁsh\nnext line",
    "Question: {x} Answer:",
    "",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_folder):
    return open_tokenizer(tiny_folder("llama"))


def test_special_ids_are_the_embedded_defaults(tokenizer):
    assert tokenizer.start_ids == [2]
    assert tokenizer.eos_id == 3
    pieces = [tokenizer.model.id_to_piece(i) for i in range(6)]
    assert pieces == ["<pad>", "<unk>", "<s>", "</s>", "[CLS]", "[DEC]"]


@pytest.mark.parametrize("text", TEXTS)
def test_transformers_opens_the_same_folder_with_the_same_ids(tiny_folder, tokenizer, text):
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(tiny_folder("llama"))
    assert theirs(text, add_special_tokens=False)["input_ids"] == tokenizer(text)
    assert (theirs.pad_token_id, theirs.bos_token_id, theirs.eos_token_id) == (0, 2, 3)


def test_text_is_casefolded_and_spaces_are_single(tokenizer):
    assert tokenizer.decode(tokenizer("A Small  RED circle ")) == "a small red circle"


def test_special_tokens_spelled_by_a_user_stay_text(tokenizer):
    ids = tokenizer("hello </s> there")
    assert tokenizer.eos_id not in ids
    assert tokenizer.decode(ids) == "hello </s> there"


@pytest.mark.parametrize("name", ["llama", "opt", "t5"])
def test_text_grows_as_ids_do(tiny_folder, name):
    """What a streamed answer relies on: nothing that was shown is taken back."""
    tokenizer = open_tokenizer(tiny_folder(name))
    text = "a small red circle next to the yellow cat, two of them? yes."
    ids = tokenizer(text)
    shown = [tokenizer.decode(ids[:n]) for n in range(len(ids) + 1)]
    assert shown[-1] == text
    assert all(text.startswith(part) for part in shown)


def test_incomplete_characters_end_in_the_replacement_character(tokenizer):
    ids = tokenizer("☃")
    parts = [tokenizer.decode(ids[:n]).rstrip("�") for n in range(len(ids) + 1)]
    assert parts[-1] == "☃"
    assert set(parts[:-1]) == {""}


def test_ids_beyond_the_tokenizer_and_special_ids_say_nothing(tokenizer):
    ids = tokenizer("a cat")
    assert tokenizer.decode([2, *ids, 3, 0, len(tokenizer) + 5]) == "a cat"


def test_a_tokenizer_json_is_read_by_transformers(tiny_folder):
    tokenizer = open_tokenizer(tiny_folder("opt"))
    assert tokenizer.start_ids == [2]
    assert tokenizer.decode(tokenizer("A cat")) == "A cat"


def test_a_folder_without_a_tokenizer_is_an_error(tiny_folder):
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        open_tokenizer(tiny_folder("vit"))


def test_a_damaged_tokenizer_is_an_error(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(CheckpointError, match="missing or damaged"):
        open_tokenizer(tmp_path)


def test_bos_can_be_left_out_in_the_folder(tmp_path):
    file = tiny.sentencepiece(tmp_path / "a.model", vocab_size=100, bos_id=1, eos_id=2, unk_id=0)
    save_sentencepiece(file, tmp_path / "folder")
    settings = tmp_path / "folder" / "tokenizer_config.json"
    assert open_tokenizer(tmp_path / "folder").start_ids == [1]
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"add_bos_token": False}))
    assert open_tokenizer(tmp_path / "folder").start_ids == []
