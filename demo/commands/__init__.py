"""One module a command, light to import: SAYS and EXAMPLES for --help, `arguments` and `run`."""

from demo.commands import (
    ask,
    caption,
    chat,
    convert,
    doctor,
    export,
    find,
    models,
    rank,
    segment,
    segmenters,
    setup,
)

COMMANDS = {
    "ask": ask,
    "caption": caption,
    "segment": segment,
    "segmenters": segmenters,
    "find": find,
    "rank": rank,
    "chat": chat,
    "models": models,
    "setup": setup,
    "convert": convert,
    "export": export,
    "doctor": doctor,
}
