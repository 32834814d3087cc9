"""What is said that no photo answers: greetings, thanks, requests that cannot be met; and pictures
in which there is nothing to see."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from train.photos.lines import Lines, draws
from train.photos.names import COCO
from train.photos.wordings import as_typed
from train.scenes.wordings import pick

SKILLS = (
    "tell you what something is when you click it",
    "say what colour a thing is",
    "describe the picture",
    "count things, up to four",
    "tell you whether something is in the picture",
    "describe what you mark",
    "name what you point at",
)
# What people say, and what is answered before two things that can be done here.
TALK: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "greeting": (
        ("hello", "hi", "hey", "good morning", "hi there", "hello!", "hey there", "good evening",
         "howdy", "yo", "greetings", "hello, how are you?", "how are you?", "what's up?",
         "nice to meet you", "good afternoon", "hiya", "are you there?", "anybody home?"),
        ("Hello!", "Hi!", "Hello, good to see you."),
    ),
    "thanks": (
        ("thanks", "thank you", "thank you very much", "thx", "cheers", "great, thanks", "cool",
         "well done", "good job", "nice", "perfect", "ok thanks", "that's right", "awesome",
         "you are good at this", "ok", "bye", "goodbye", "see you"),
        ("You are welcome.", "Glad to help.", "Any time."),
    ),
    "who": (
        ("who are you?", "what are you?", "what is your name?", "are you human?", "are you a bot?",
         "who made you?", "are you chatgpt?", "tell me about yourself", "what's your name?",
         "are you real?", "which model are you?", "are you an ai?", "do you have a name?"),
        ("I am Loupe, a small model that looks at pictures.", "I am Loupe: I answer about photos.",
         "My name is Loupe. I look at pictures and know little else."),
    ),
    "help": (
        ("what can you do?", "help", "how does this work?", "what can i ask?", "what now?",
         "how do i use this?", "what are you good at?", "what should i ask?", "give me an example",
         "what do you know?", "i don't know what to ask", "what else can you do?", "any tips?",
         "can you help me?", "show me what you can do", "?"),
        ("I answer questions about this picture.", "I look at the picture and answer about it.",
         "Ask me about the picture."),
    ),
    "language": (
        ("hola", "bonjour", "guten tag", "was ist das?", "qu'est-ce que c'est?", "¿qué es esto?",
         "cosa è questo?", "hallo", "wie geht es dir?", "ciao", "o que é isso?", "co to jest?",
         "sprichst du deutsch?", "parlez-vous français?", "do you speak spanish?", "这是什么",
         "これは何ですか", "что это?", "can you answer in german?", "welche farbe hat es?",
         "combien de chiens?", "bu nedir?", "hej", "wat is dit?"),
        ("I only understand English.", "I can only talk in English.", "Sorry, only English here."),
    ),
    "facts": (
        ("what's the weather tomorrow?", "what is the capital of france?", "who won the match?",
         "what time is it?", "what day is it?", "who is the president?", "what is the news?",
         "how tall is mount everest?", "where was this photo taken?", "when was this taken?",
         "who took this photo?", "what is the name of this person?", "who is this man?",
         "how much does this cost?", "what is the meaning of life?", "where am i?",
         "what happened before this?", "what will happen next?", "is it going to rain?",
         "what is on the other side?", "how old is she?", "what is he thinking?",
         "what does it smell like?", "which camera was used?"),
        ("I can't tell: I only know what the picture shows.", "That is not in the picture.",
         "I don't know that: I only look at this picture."),
    ),
    "work": (
        ("write python code", "write a function that sorts a list", "what is 17 times 23?",
         "solve x + 3 = 10", "write an essay", "translate this into french", "write me an email",
         "tell me a joke", "sing a song", "write a poem", "book a flight", "call my mom",
         "play some music", "set a timer", "search the web", "what is the square root of 144?",
         "debug my code", "summarise this article", "make me a sandwich", "draw a cat",
         "edit this photo", "remove the background", "make it brighter", "crop this picture",
         "send it to my friend", "open a file", "order a pizza", "give me a recipe",
         "plan my holiday", "2+2"),
        ("I can't do that: I only answer about pictures.", "That is beyond me.",
         "Sorry, I can't do that."),
    ),
    "personal": (
        ("do you love me?", "i am sad", "i'm bored", "how old are you?", "where do you live?",
         "do you have feelings?", "what is your favourite colour?", "are you married?",
         "do you sleep?", "you are stupid", "that is wrong", "no, you are wrong", "i hate you",
         "do you like dogs?", "should i quit my job?", "what should i eat?", "am i pretty?",
         "is this art?", "can you keep a secret?", "are you sure?", "why?", "lol", "haha", "asdf",
         "qwerty", "blah blah", "hmm", "...", "test", "xyz"),
        ("I am only a small model that looks at pictures.", "I have no say in that.",
         "I may be wrong: look for yourself."),
    ),
}  # fmt: skip

NOTHING = (
    "I can't tell: there is nothing to see here.",
    "There is nothing to see here.",
    "I can't tell: the picture shows nothing that I know.",
)
BLANK_ASKS = (
    "what is this?", "whats this", "name it", "describe the picture", "what do you see?",
    "what is in the picture?", "describe it", "what is it?", "what colour is the dog?",
    "what is happening?", "write a caption", "identify this", "what kind of object is it?",
    "tell me about this picture", "what does the picture show?",
)  # fmt: skip
BLANKS = 150
SIDE = 224


def offers(rng: np.random.Generator) -> str:
    """Two things that can be done here."""
    first, second = rng.permutation(SKILLS)[:2]
    lead = pick(rng, ("I can", "Here I can", "But I can"))
    return f"{lead} {first}, or {second}."


def talk(photos: Sequence[str], times: int = 2) -> Iterator[Lines]:
    """Each prompt `times`, every one beside another photo."""
    order = draws("talk").permutation(len(photos))
    place = 0
    for group, (prompts, replies) in TALK.items():
        for prompt in prompts:
            for _ in range(times):
                lines = Lines("talk", photos[order[place % len(photos)]])
                place += 1
                lines.rng = draws("talk", group, prompt, place)
                answer = f"{pick(lines.rng, replies)} {offers(lines.rng)}"
                lines.question(as_typed(prompt, lines.rng), answer)
                yield lines


def paint_blank(rng: np.random.Generator) -> np.ndarray:
    """uint8 (SIDE, SIDE, 3): one colour, a gradient, or noise, coarse or fine."""
    first, second = rng.integers(0, 256, (2, 3))
    if rng.random() < 0.25:  # black, white and grey are what a broken camera gives
        first[:] = second[:] = pick(rng, (0, 255, 128, int(first[0])))
    across = np.linspace(0, 1, SIDE)
    kind = pick(rng, ("plain", "gradient", "noise", "coarse"))
    if kind == "plain":
        picture = np.broadcast_to(first, (SIDE, SIDE, 3))
    elif kind == "gradient":
        angle = rng.random() * 2 * np.pi
        ramp = np.cos(angle) * across[:, None] + np.sin(angle) * across[None, :]
        ramp = (ramp - ramp.min()) / (ramp.max() - ramp.min())
        picture = first + (second - first) * ramp[..., None]
    else:
        cells = SIDE if kind == "noise" else int(pick(rng, (8, 16, 32, 64)))
        channels = 3 if rng.random() < 0.5 else 1
        noise = rng.normal(128, rng.uniform(10, 80), (cells, cells, channels)).clip(0, 255)
        small = Image.fromarray(np.broadcast_to(noise, (cells, cells, 3)).astype(np.uint8))
        picture = np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return np.clip(picture, 0, 255).astype(np.uint8)


def blanks(out: Path, source: Path, count: int = BLANKS) -> Iterator[Lines]:
    """Pictures of nothing, painted into out/images; what is asked of them gets no invention. They
    are named as seen from `source`, as all pictures are."""
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    there = Path(os.path.relpath(folder.resolve(), source.resolve())).as_posix()
    for number in range(count):
        name = f"blank-{number:03d}.png"
        lines = Lines("blank", f"{there}/{name}")
        lines.rng = draws("blank", name)
        Image.fromarray(paint_blank(lines.rng)).save(folder / name)
        region = [{"box": [SIDE // 4, SIDE // 4, 3 * SIDE // 4, 3 * SIDE // 4]}]
        for place in lines.rng.permutation(len(BLANK_ASKS))[:4]:
            regions = region if lines.rng.random() < 0.5 else []
            question = as_typed(BLANK_ASKS[place], lines.rng)
            lines.question(question, pick(lines.rng, NOTHING), regions=regions)
        thing = pick(lines.rng, COCO)
        lines.exists(thing, False, 1)
        lines.count(thing, "none", 1)
        yield lines
