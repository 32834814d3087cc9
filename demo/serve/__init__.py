"""Loupe over HTTP: the page and, beside it in the same process, the doors programs use.

`gate.py` lets in what is allowed, `api.py` speaks OpenAI's form, `doors.py` does the work,
`worker.py` keeps clicks quick while answers are written, `server.py` puts it all together.
"""
