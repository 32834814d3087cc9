"""Someone at the page, in a real browser. Waits on the page's own counters, never on the clock."""

WAIT = 60_000  # milliseconds: CI machines are slow


class Visitor:
    def __init__(self, browser, url: str, width: int = 1360, height: int = 860, **options):
        self.complaints: list[str] = []  # errors on the console, requests off this machine
        self.context = browser.new_context(viewport={"width": width, "height": height}, **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(WAIT)
        self.page.on("console", lambda m: m.type == "error" and self.complaints.append(m.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._check)
        self.page.goto(url)
        self.page.wait_for_selector(".lc[data-ready=true]")
        self.page.wait_for_selector(".lh-status[data-state=ready]")
        self.operations = 0

    def _check(self, request) -> None:
        if not request.url.startswith(("http://127.0.0.1", "http://localhost", "data:", "blob:")):
            self.complaints.append(request.url)

    def settle(self, operations: int = 1) -> None:
        """Wait until the canvas has shown so many more operations' outcomes."""
        self.operations += operations
        self.page.wait_for_selector(f'.lc[data-acks="{self.operations}"]')

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Shares of the picture -> place on the page."""
        box = self.page.locator(".lc canvas").bounding_box()
        rect = self.page.get_attribute(".lc canvas", "data-rect")
        left, top, width, height = (float(value) for value in rect.split(","))
        return box["x"] + left + x * width, box["y"] + top + y * height

    def choose(self, example: str = "noise.png") -> None:
        self.page.click(f'.lc-shelf [data-example="{example}"]')
        self.settle()

    def click(self, x: float, y: float, **options) -> None:
        self.page.mouse.click(*self.at(x, y), **options)
        self.settle()

    def drag(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self.page.mouse.move(*self.at(x0, y0))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(x1, y1), steps=4)
        self.page.mouse.up()
        self.settle()

    def tool(self, name: str) -> None:
        self.page.click(f"[data-tool={name}]")

    def act(self, name: str) -> None:
        self.page.click(f".lc [data-act={name}]")
        self.settle()

    def keys(self, *keys: str, operations: int = 0) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        if operations:
            self.settle(operations)

    def ask(self, question: str) -> str:
        """Type a question, press enter; the whole answer."""
        self.page.fill(".lt-ask textarea", question)
        self.page.press(".lt-ask textarea", "Enter")
        return self.answered()

    def answered(self) -> str:
        """The answer that was just asked for, once it is there."""
        self.page.wait_for_selector(".lt[data-busy=false]")
        return self.answers()[-1]

    def answers(self) -> list[str]:
        return self.page.locator(".lt-entry.answer .lt-bubble > p").all_inner_texts()

    def questions(self) -> list[str]:
        return self.page.locator(".lt-entry.question p").all_inner_texts()

    def chips(self) -> list[str]:
        return self.page.locator(".lc-name span").all_inner_texts()

    def note(self) -> str:
        return self.page.locator(".lc-note").inner_text()
