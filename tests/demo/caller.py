"""Someone at the page, without a browser: calls what the page's events call."""


class Caller:
    """operate(op=...) -> canvas, talk; work(op=...) -> all talks."""

    def __init__(self, chat):
        self.chat, self.count = chat, 0
        self.key, _, _ = chat.enter()
        self.session = chat.sessions.get(self.key)
        self.session.bucket.tokens = self.session.bucket.burst = 1000

    def operate(self, **operation):
        self.count += 1
        return self.chat.operate(self.key, {"id": self.count, **operation})

    def work(self, **operation):
        return list(self.chat.work(self.key, operation))

    def ask(self, question="what is this?"):
        return self.work(op="ask", question=question)[-1]
