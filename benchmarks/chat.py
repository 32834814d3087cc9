"""The chat as its visitors meet it: `loupe chat` in a process of its own, a real browser, many
clients. Prints what was reached beside what is wanted, and the machine it was reached on.

    python -m benchmarks.chat                 all of it, a few minutes
    python -m benchmarks.chat --only start clicks
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from PIL import Image

from benchmarks.measure import free_port

FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]  # fmt: skip
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUESTION = "what is in the picture?"
WAIT = 120_000  # milliseconds
SIZES = ((1024, 1024), (4000, 3000))


class Running:
    """A chat in a process of its own."""

    def __init__(self, *options: str):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.began, self.at = time.perf_counter(), time.time()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "demo.cli", "chat", "--port", str(self.port), *options],
            stdout=subprocess.DEVNULL,
        )

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def until(self, there: Callable[[], bool], every: float = 0.02) -> float:
        """Seconds since the start when `there` first held; asked anew after `every` seconds."""
        while True:
            with suppress(OSError):
                if there():
                    return time.perf_counter() - self.began
            if self.process.poll() is not None:
                raise SystemExit("loupe chat has ended: run it by hand to see why")
            time.sleep(every)

    def ready(self) -> float:
        """Seconds since the start; asked seldom, for every answer holds up the loading."""
        return self.until(lambda: json.loads(self.get("health"))["ready"], every=0.1)

    def figure(self, name: str) -> float:
        lines = self.get("metrics").decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    def ask(self, picture: str, **more: Any) -> tuple[int, dict]:
        """(status, answer) of a program's question."""
        content = [{"type": "image_url", "image_url": {"url": picture}},
                   {"type": "text", "text": QUESTION}]  # fmt: skip
        body = {"model": "loupe", "messages": [{"role": "user", "content": content}], **more}
        request = urllib.request.Request(
            f"{self.url}v1/chat/completions", json.dumps(body).encode(),
            {"content-type": "application/json"},
        )  # fmt: skip
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=20)


@contextmanager
def running(*options: str) -> Iterator[Running]:
    chat = Running(*options)
    try:
        yield chat
    finally:
        chat.close()


@contextmanager
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        raise SystemExit("there is no Chromium here: install it, or leave out start and clicks")
    with sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield opened
        opened.close()


def picture(size: tuple[int, int] = (400, 300), seed: int = 0) -> bytes:
    """A file with coloured blocks; no two seeds alike."""
    small = Image.new("RGB", (8, 6))
    small.putdata([((37 * i * (seed + 1)) % 256, (59 * i + seed) % 256, (seed * 13 + i) % 256)
                   for i in range(48)])  # fmt: skip
    buffer = io.BytesIO()
    small.resize(size, Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


def data_url(content: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(content).decode()


def spread(milliseconds: list[float]) -> str:
    ordered = sorted(milliseconds)
    late = ordered[min(len(ordered) - 1, round(0.95 * len(ordered)))]
    return f"median {statistics.median(ordered):.0f} ms, p95 {late:.0f} ms of {len(ordered)}"


def say(what: str, reached: str, wanted: str) -> None:
    print(f"{what:<42} {reached:<44} wanted {wanted}", flush=True)


# What is measured -----------------------------------------------------------------------------


# When the page can be used, by its own clock: milliseconds since 1970.
USABLE = """
new MutationObserver((_, watch) => {
  if (!document.querySelector('.lc[data-ready=true]')) return;
  watch.disconnect();
  requestAnimationFrame(() => { window.usable = performance.timeOrigin + performance.now(); });
}).observe(document, { subtree: true, childList: true, attributeFilter: ['data-ready'] });
"""


def start() -> None:
    """Measure the time until the page can be used, and until the model answers."""
    usable, ready = [], []
    with browser() as opened:
        for _ in range(3):
            with running() as chat:
                chat.until(lambda chat=chat: bool(chat.get("config")))
                page = opened.new_page()
                page.add_init_script(USABLE)
                page.goto(chat.url)
                page.wait_for_function("() => window.usable", timeout=WAIT)
                usable.append(page.evaluate("() => window.usable") / 1000 - chat.at)
                ready.append(chat.ready())
                page.close()
    say("page usable after the start", f"{statistics.median(usable):.1f} s (of 3)", "3 s")
    say("models ready after the start", f"{statistics.median(ready):.1f} s (of 3)", "8 s")


class Visitor:
    """Somebody at the page, who waits on its own counters."""

    def __init__(self, opened: Any, url: str):
        self.page = opened.new_page(viewport={"width": 1360, "height": 860})
        self.page.set_default_timeout(WAIT)
        self.page.goto(url)
        self.page.wait_for_selector(".lc[data-ready=true]")
        self.page.wait_for_selector(".lh-status[data-state=ready]")
        self.operations = 0

    def settle(self) -> None:
        self.operations += 1
        self.page.wait_for_selector(f'.lc[data-acks="{self.operations}"]')

    def open(self, content: bytes) -> None:
        file = {"name": "picture.png", "mimeType": "image/png", "buffer": content}
        self.page.set_input_files(".lc input[type=file][accept^=image]", file)
        self.settle()

    def click(self, x: float, y: float) -> float:
        """Milliseconds from the press to the region drawn, by the page's own clock."""
        box = self.page.locator(".lc canvas").bounding_box()
        rect = self.page.get_attribute(".lc canvas", "data-rect")
        left, top, width, height = (float(value) for value in rect.split(","))
        self.operations += 1
        self.page.evaluate(
            """wanted => {
              const root = document.querySelector('.lc');
              let began = 0;
              root.addEventListener('pointerdown', () => { began = performance.now(); },
                { once: true, capture: true });
              window.drawn = new Promise(done => {
                const watch = new MutationObserver(() => {
                  if (Number(root.dataset.acks) < wanted) return;
                  watch.disconnect();
                  requestAnimationFrame(() => done(performance.now() - began));
                });
                watch.observe(root, { attributes: true });
              });
            }""",
            self.operations,
        )
        self.page.mouse.click(box["x"] + left + x * width, box["y"] + top + y * height)
        return self.page.evaluate("() => window.drawn")


def clicks(count: int = 20) -> None:
    """Measure the time from a click to its region on the screen."""
    with running() as chat, browser() as opened:
        chat.ready()
        for size in SIZES:
            visitor = Visitor(opened, chat.url)
            visitor.open(picture(size))
            visitor.click(0.5, 0.5)  # the picture is read for the first one
            times = []
            for number in range(count):
                times.append(visitor.click(0.1 + 0.8 * number / count, 0.3))
                time.sleep(0.15)
            what = f"click to region, {size[0]} x {size[1]}"
            say(what, spread(times), "median 150 ms, p95 300 ms")
            visitor.page.close()


def words(count: int = 20) -> None:
    """Measure the time from a question to the answer's first piece, of a picture read before."""
    with running() as chat:
        chat.ready()
        url = data_url(picture())
        chat.ask(url)
        before = chat.figure("loupe_first_token_seconds_sum")
        for _ in range(count):
            chat.ask(url)
        mean = 1000 * (chat.figure("loupe_first_token_seconds_sum") - before) / count
    say("first word of an answer", f"mean {mean:.0f} ms of {count}", "250 ms")


def five(count: int = 15) -> None:
    """Clicks of one visitor while four others have answers written all the time."""
    with running() as chat, browser() as opened:
        chat.ready()
        over = threading.Event()

        def write(seed: int) -> None:
            url = data_url(picture(seed=seed))
            while not over.is_set():
                chat.ask(url)

        others = [threading.Thread(target=write, args=(seed,)) for seed in range(1, 5)]
        for other in others:
            other.start()
        visitor = Visitor(opened, chat.url)
        visitor.open(picture((1024, 1024)))
        visitor.click(0.5, 0.5)
        times = []
        for number in range(count):
            times.append(visitor.click(0.1 + 0.8 * number / count, 0.3))
            time.sleep(0.2)
        over.set()
        for other in others:
            other.join()
    say("click while four answers are written", spread(times), "p95 700 ms")


def crowd(count: int = 100) -> None:
    """Many programs at once, each with a picture of its own: answered alike, or told "busy"."""
    with running() as chat:
        chat.ready()
        urls = [data_url(picture(seed=seed)) for seed in range(10)]
        alone = [chat.ask(url)[1]["choices"][0]["message"]["content"] for url in urls]
        began = time.perf_counter()
        with ThreadPoolExecutor(count) as clients:
            got = list(clients.map(lambda n: chat.ask(urls[n % 10]), range(count)))
        seconds = time.perf_counter() - began
    right = sum(
        status == 200 and said["choices"][0]["message"]["content"] == alone[n % 10]
        for n, (status, said) in enumerate(got)
    )
    busy = sum(status in (429, 503) for status, _ in got)
    reached = f"{right} right, {busy} busy, {count - right - busy} else; {seconds:.1f} s"
    say(f"{count} programs at once", reached, "none else")


def memory(count: int = 1000) -> None:
    """Memory over many chats, each about a picture nobody has sent before."""
    with running() as chat:
        chat.ready()
        name = "process_resident_memory_bytes"
        seen = []
        for number in range(count):
            chat.ask(data_url(picture(seed=number)), max_tokens=8)
            if number + 1 in (count // 10, count):
                seen.append(chat.figure(name))
    grown = 100 * (seen[1] / seen[0] - 1)
    reached = f"{seen[0] / 1e6:.0f} -> {seen[1] / 1e6:.0f} MB, {grown:+.1f} %"
    say(f"memory, chat {count // 10} to {count}", reached, "5 %")


def gone(count: int = 5) -> None:
    """Measure the time from a tab's closing to the end of what it had asked for."""
    times = []
    with running("--max-new-tokens", "400", "--temperature", "1.5") as chat, browser() as opened:
        chat.ready()
        for _ in range(count):
            visitor = Visitor(opened, chat.url)
            visitor.open(picture())
            visitor.page.fill(".lt-ask textarea", QUESTION)
            visitor.page.press(".lt-ask textarea", "Enter")
            visitor.page.wait_for_selector(".lt[data-busy=true]")
            began = time.perf_counter()
            visitor.page.close()
            calls, last = chat.figure('loupe_model_seconds_count{part="language"}'), began
            while time.perf_counter() - last < 0.5:  # quiet for so long: it has ended
                now = chat.figure('loupe_model_seconds_count{part="language"}')
                if now != calls:
                    calls, last = now, time.perf_counter()
            times.append(1000 * (last - began))
    say("a closed tab's answer ends", spread(times), "1000 ms")


MEASURED = {"start": start, "clicks": clicks, "words": words, "five": five, "crowd": crowd,
            "gone": gone, "memory": memory}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=MEASURED, default=list(MEASURED))
    only = parser.parse_args().only
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"{cores} cores, load {os.getloadavg()[0]:.1f} at the start", flush=True)
    for name in only:
        MEASURED[name]()
    print(f"load {os.getloadavg()[0]:.1f} at the end")


if __name__ == "__main__":
    main()
