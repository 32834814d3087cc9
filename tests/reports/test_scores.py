"""Scores that flattered or lied: what is missing is wrong, what is unclear is refused by name."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qformer.contracts import LoupeError
from train.data.pictures import FilePicture
from train.eval import scoring
from train.eval.case import Case
from train.eval.choices import choice_in
from train.eval.cli import main
from train.eval.metrics import vqa
from train.eval.metrics.words import words
from train.eval.tasks import TASKS


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "images").mkdir()
    for number in range(1, 5):
        Image.fromarray(np.full((20, 30, 3), 50 * number, np.uint8)).save(
            tmp_path / "images" / f"{number}.png"
        )
    return tmp_path


def write(file, values, lines=False):
    file.write_text("\n".join(map(json.dumps, values)) if lines else json.dumps(values))
    return file


def measures(task, data, results, *options):
    out = data.parent / "out"
    assert main([task, "--data", str(data), "--predictions", str(results), "--out", str(out),
                 "--images", str(data.parent / "images"), *options]) == 0  # fmt: skip
    systems = json.loads((out / "scores.json").read_text())["systems"]
    return {name: one["value"] for name, one in systems[results.stem]["scores"].items()}


@pytest.fixture
def captions(folder):
    texts = ["a red cat on a mat", "two dogs running on grass", "a man riding a blue bike",
             "a plate of food on a table"]  # fmt: skip
    return write(folder / "captions.json", {
        "images": [{"id": n, "file_name": f"{n}.png"} for n in range(1, 5)],
        "annotations": [{"id": 100 + n, "image_id": n, "caption": text}
                        for n, text in enumerate(texts, 1)],
    })  # fmt: skip


def told(captions):
    return {one["image_id"]: one["caption"]
            for one in json.loads(captions.read_text())["annotations"]}  # fmt: skip


@pytest.mark.parametrize(
    "form",
    [
        lambda id, text: {"image_id": id, "id": 5 - id, "caption": text},  # as loadRes leaves them
        lambda id, text: {"image_id": float(id), "caption": text},
        lambda id, text: {"image_id": str(id), "caption": [text]},
        lambda id, text: {"image_id": id, "caption": [{"caption": text}]},
        lambda id, text: {"image_id": f"{id}.png", "caption": text},
        lambda id, text: {"id": id, "answer": text},
    ],
)
def test_captions_go_to_their_picture_in_every_form_of_the_file(captions, form):
    values = [form(id, text) for id, text in told(captions).items()]
    for wrapped in (values, {"annotations": values, "images": []}):
        found = measures("captions", captions, write(captions.parent / "results.json", wrapped))
        assert found["CIDEr"] == pytest.approx(10, abs=1e-6)
        assert found["BLEU-4"] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: [t], lambda t: [{"caption": t}]])
def test_captions_are_read_from_what_the_scorer_is_given(captions, wrap):
    values = {str(id): wrap(text) for id, text in told(captions).items()}
    found = measures("captions", captions, write(captions.parent / "results.json", values))
    assert found["CIDEr"] == pytest.approx(10, abs=1e-6)


@pytest.fixture
def aokvqa(folder):
    base = {"difficult_direct_answer": False, "split": "val", "question": "What animal?"}
    return write(folder / "aokvqa.json", [
        {**base, "question_id": "q1", "image_id": 1, "choices": ["cat", "dog", "cow", "pig"],
         "correct_choice_idx": 1, "direct_answers": ["puppy"] * 3 + ["dog"] * 7},
        {**base, "question_id": "q2", "image_id": 2, "choices": ["rain", "sun", "snow", "wind"],
         "correct_choice_idx": 0, "direct_answers": ["it rains"] * 2 + ["wet"] * 8},
        {**base, "question_id": "q3", "image_id": 3, "choices": ["a", "b", "c", "d"],
         "correct_choice_idx": 2, "direct_answers": ["odd"] * 10, "difficult_direct_answer": True},
    ])  # fmt: skip


def test_a_okvqas_own_file_holds_both_keys_and_each_task_takes_its_own(aokvqa):
    values = {
        "q1": {"multiple_choice": "dog", "direct_answer": "puppy"},
        "q2": {"multiple_choice": "rain", "direct_answer": "it rains"},
        "q3": {"multiple_choice": "c", "direct_answer": ""},
    }
    file = write(aokvqa.parent / "predictions.json", values)
    assert measures("aokvqa-choice", aokvqa, file)["accuracy"] == 1
    # the official script's: q3 is difficult and left out, two of ten give 2/3
    assert measures("aokvqa", aokvqa, file)["accuracy"] == pytest.approx((1 + 2 / 3) / 2, abs=1e-6)


def test_a_file_of_direct_answers_is_no_file_of_choices(aokvqa):
    file = write(aokvqa.parent / "predictions.json", {"q1": {"direct_answer": "dog"}})
    with pytest.raises(LoupeError, match="needs question_id or id, and multiple_choice"):
        measures("aokvqa-choice", aokvqa, file)
    half = {"q1": {"direct_answer": "dog", "multiple_choice": ""}}
    found = measures("aokvqa-choice", aokvqa, write(aokvqa.parent / "half.json", half))
    assert found["accuracy"] == 0


@pytest.fixture
def pope(folder):
    lines = [
        {"question_id": n, "image": f"{n}.png", "text": "Is there a dog in the image?",
         "label": "yes" if n < 3 else "no"}
        for n in range(1, 5)
    ]  # fmt: skip
    return write(folder / "coco_pope_random.json", lines, lines=True)


def test_unanswered_questions_of_pope_are_no_yes(pope):
    found = measures("pope", pope, write(pope.parent / "one.json", {"random-3": "no"}))
    assert (found["accuracy"], found["recall"], found["F1"], found["says yes"]) == (0.25, 0, 0, 0)
    nothing = [{"id": f"random-{n}", "answer": ""} for n in range(1, 5)]
    found = measures("pope", pope, write(pope.parent / "none.json", nothing))
    assert (found["accuracy"], found["F1"], found["recall"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("answers", "accuracy"),
    [  # POPE's script: the words no and not in the first sentence, and nothing else, are a no
        (["Yes.", "yes, it is", "no", "No, there is none."], 1.0),
        (["Nothing", "Not sure", "Nope", "none"], 0.5),
        (["yes and no", "there is not one", "a no", "I see no dog"], 0.5),
    ],
)
def test_free_answers_are_read_as_popes_script_reads_them(pope, answers, accuracy):
    for form in (
        lambda n, text: {"question": "Is there a dog in the image?", "answer": text},  # its own
        lambda n, text: {"question_id": n, "prompt": "Is there a dog?", "text": text},  # LLaVA's
        lambda n, text: {"question_id": n, "text": "Is there a dog in the image?", "answer": text},
    ):
        lines = [form(n, text) for n, text in enumerate(answers, 1)]
        file = write(pope.parent / "answers.json", lines, lines=True)
        assert measures("pope", pope, file)["accuracy"] == accuracy


def test_answers_without_ids_are_taken_in_order_only_where_they_repeat_the_questions(pope):
    for lines in ([{"answer": "yes"}] * 4, [{"question": "Is there a dog in the image?"}] * 3):
        with pytest.raises(LoupeError, match=r"answers\.json has no ids"):
            measures("pope", pope, write(pope.parent / "answers.json", lines))


@pytest.fixture
def vqav2(folder):
    write(folder / "annotations.json", {"annotations": [
        {"question_id": 10 + n, "image_id": n, "answers": [{"answer": word}] * 10}
        for n, word in enumerate(("2", "red", "yes"), 1)]})  # fmt: skip
    return write(folder / "questions.json", {"data_subtype": "val2014", "questions": [
        {"question_id": 10 + n, "image_id": n, "question": text}
        for n, text in enumerate(("how many?", "what colour?", "is it?"), 1)]})  # fmt: skip


def vqa_accuracy(vqav2, values, lines=False):
    for number in range(1, 5):  # called as in COCO
        picture = vqav2.parent / "images" / f"COCO_val2014_{number:012d}.jpg"
        if not picture.exists():
            Image.new("RGB", (30, 20), (50 * number, 0, 0)).save(picture)
    file = write(vqav2.parent / "results.json", values, lines)
    answers = str(vqav2.parent / "annotations.json")
    return measures("vqav2", vqav2, file, "--answers", answers)["VQA accuracy"]


def test_results_with_several_ids_go_to_their_question(vqav2):
    values = [{"id": 13 - n, "image_id": 4 - n, "question_id": 11 + n, "answer": word}
              for n, word in enumerate((2, "red", "yes"))]  # fmt: skip
    assert vqa_accuracy(vqav2, values) == 1
    assert vqa_accuracy(vqav2, values, lines=True) == 1
    without = [{k: v for k, v in one.items() if k != "question_id"} for one in values]
    assert vqa_accuracy(vqav2, [{**one, "id": 11 + n} for n, one in enumerate(without)]) == 1


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"answer": ["red", "blue"]}, r'13 has \["red", "blue"\] for an answer'),
        ({"answer": {"score": 1}}, "13 has .* for an answer, which is not clear"),
        ({"answer": True}, "13 has true for an answer"),
        ({"answer": 0.7}, r"13 has 0\.7 for an answer"),
        ({"answer": "no", "prediction": "yes"}, "answer 'no' and prediction 'yes'"),
    ],
)
def test_an_answer_that_is_not_clear_is_refused_by_name(vqav2, line, message):
    with pytest.raises(LoupeError, match=message):
        vqa_accuracy(vqav2, [{"question_id": 11, "answer": "2"}, {"question_id": 13, **line}])


def test_two_answers_to_one_question_are_refused_by_name(vqav2):
    with pytest.raises(LoupeError, match="answers 11 twice, '2' and '3'"):
        vqa_accuracy(vqav2, [{"question_id": 11, "answer": word} for word in ("2", "3")])


def test_nothing_is_no_answer(vqav2):
    values = [{"question_id": 11, "answer": None}, {"question_id": 12, "answer": []},
              {"question_id": 13, "answer": float("nan")}]  # fmt: skip
    assert vqa_accuracy(vqav2, values) == 0


def test_gqa_takes_its_prediction_beside_the_truth(folder):
    Image.new("RGB", (9, 9)).save(folder / "images" / "1.jpg")
    data = write(folder / "questions.json", {
        n: {"question": "what?", "answer": "dog", "imageId": 1} for n in ("01", "02")})  # fmt: skip
    for id, answer in (("questionId", "prediction"), ("question_id", "pred_ans")):
        values = [
            {id: n, answer: text, "gt_ans": "dog"} for n, text in (("01", "a dog"), ("02", "dog"))
        ]
        found = measures("gqa", data, write(folder / "results.json", values))
        assert (found["accuracy"], found["accuracy (GQA's script)"]) == (1, 0.5)


def test_nlvr_takes_its_own_table_and_counts_its_own_groups(folder):
    lines = [{"identifier": f"7-{n}", "directory": "1", "sentence": "one", "label": "true",
              "images": [f"dev-7-{n}-{p}.png" for p in range(2)]} for n in range(2)]  # fmt: skip
    for line in lines:
        for name in line["images"]:
            Image.new("RGB", (9, 9)).save(folder / "images" / name)
    data = write(folder / "dev.json", lines, lines=True)
    table = folder / "table.csv"
    table.write_text("".join(f"dev-7-{n}-{p}.png,{'True' if n + p < 2 else 'False'}\n"
                             for n in range(2) for p in range(2)))  # fmt: skip
    found = measures("nlvr", data, table)
    assert (found["accuracy"], found["consistency"]) == (0.75, 0)  # one sentence, one of four wrong


@pytest.mark.parametrize(
    ("answer", "choices", "meant"),
    [
        ("a", ("b", "a"), "a"),  # the words before the letter
        ("B", ("b", "a"), "b"),
        ("2", ("3", "2", "1"), "2"),
        ("21 dogs", ("2", "21"), "21"),
        ("cathedral", ("cat", "dog"), "cathedral"),
        ("nothing", ("yes", "no"), "nothing"),
        ("no, I see none", ("yes", "no"), "no"),
        ("a", ("yes", "no"), "a"),  # which have no letters
        ("A dog", ("cat", "dog"), "A dog"),  # an article
        ("B. dog", ("cat", "dog"), "dog"),
        ("(b) dog", ("cat", "dog"), "dog"),
        ("B. cat", ("cat", "dog"), "B. cat"),  # which of them?
        ("red car", ("red", "red car"), "red car"),
        ("red car, parked", ("red", "red car"), "red car"),
        ("K", tuple("0123456789z"), "z"),
        ("seven", tuple(map(str, range(30))), "seven"),
        ("", ("...", "dog"), ""),
        ("'Dog.'", ("cat", "dog"), "dog"),
    ],
)
def test_the_words_of_a_choice_come_before_letters_and_beginnings(answer, choices, meant):
    assert choice_in(answer, choices) == meant


def test_a_number_for_a_choice_is_refused_where_it_could_count_from_0_or_1(aokvqa):
    file = write(aokvqa.parent / "predictions.json", {"q1": {"multiple_choice": 1}})
    with pytest.raises(LoupeError, match="q1 has 1 for an answer, which is not clear"):
        measures("aokvqa-choice", aokvqa, file)


@pytest.mark.parametrize("nothing", ["", " ", ".", "the", "?!", "a", "An the."])
def test_an_answer_of_which_nothing_is_left_is_no_other_such_answer(nothing):
    people = ("x", "it", "...", "an", "the a") * 2
    for script in ("official", "lavis"):
        assert vqa.accuracy(nothing, people, script) == 0
    case = Case("1", FilePicture(Path("1.png")), "what?", people)
    scored = Case(
        "2", FilePicture(Path("1.png")), "what?", ("an",), extra={"answer_scores": {"an": 1}}
    )
    for score in (scoring.exact_scores, scoring.closed_scores, scoring.vqa_scores):
        found = score([case, scored], [{"answer": nothing}] * 2)
        assert {measure.value for measure in found.values()} == {0}
    assert vqa.accuracy("the", ("the",) * 10) == 1  # what people said themselves is right


@pytest.mark.parametrize("name", [n for n, task in TASKS.items() if not task.retrieval])
def test_a_model_that_answers_nothing_scores_nothing_in_every_task(name):
    task = TASKS[name]
    cases = [
        Case(str(n), FilePicture(Path(f"{n}.png")), "is it?", (word,), choices=("yes", "no"),
             right=word, extra={"elsewhere": ["cat"], "identifier": n})
        for n, word in enumerate(("yes", "no", "yes", "no"))
    ]  # fmt: skip
    for record in ({"answer": "", "error": "too long"}, {"answer": None}, {}):
        found = {key: one.value for key, one in task.score(cases, [record] * 4).items()}
        if name == "leakage":  # less is better
            assert found == {"leaks": 1, "names it": 0}
        else:
            assert found == pytest.approx(dict.fromkeys(found, 0), abs=1e-6)


@pytest.mark.parametrize(
    ("caption", "expected"),
    [  # as PTBTokenizer (CoreNLP 3.4.1, -lowerCase) cuts them; the scorer drops single signs alone
        ("Wow!! a dog", "wow !! a dog"),
        ("what?! a cat", "what ?! a cat"),
        ("a dog !! really???", "a dog !! really ???"),
        ("hey ! ! a dog!", "hey a dog"),
        ("x!y a?b", "x!y a?b"),
    ],
)
def test_several_marks_in_a_row_are_a_word_of_a_caption(caption, expected):
    assert " ".join(words(caption)) == expected
