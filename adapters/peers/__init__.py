"""Other people's models, asked as Loupe's are: in the same run, over the same cases.

A new peer is a class with the methods of `base.Peer` and a line in PEERS. Each is opened from a
Hugging Face folder or hub id, a server from its address.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from adapters.build import HUB_ID
from adapters.peers.huggingface import HuggingFacePeer
from adapters.peers.matchers import (
    AlignPeer,
    BlipMatchPeer,
    ClipPeer,
    ViltAnswerPeer,
    ViltMatchPeer,
)  # fmt: skip
from adapters.peers.server import ServerPeer
from adapters.peers.writers import Blip2Peer, BlipAnswerPeer, BlipCaptionPeer, InstructBlipPeer
from adapters.source import ModelSource
from qformer.contracts import CheckpointError, LoupeError, hint

PEERS: dict[str, type[HuggingFacePeer]] = {
    "blip2": Blip2Peer,
    "instructblip": InstructBlipPeer,
    "blip-caption": BlipCaptionPeer,
    "blip-vqa": BlipAnswerPeer,
    "blip-itm": BlipMatchPeer,
    "vilt-vqa": ViltAnswerPeer,
    "vilt-itm": ViltMatchPeer,
    "clip": ClipPeer,
    "align": AlignPeer,
}
SERVER = "server"


def open_peer(
    kind: str,
    source: str | Path,
    name: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Any:
    """A peer by its kind. Raises LoupeError for an unknown kind, CheckpointError for its folder."""
    if kind == SERVER:
        return ServerPeer(name or kind, str(source))
    if kind not in PEERS:
        raise LoupeError(f"there is no peer {kind!r}: {hint(kind, [*PEERS, SERVER])}")
    if not ModelSource.of(source).is_folder and not HUB_ID.fullmatch(str(source)):
        raise CheckpointError(f"there is no folder {source}: give a {kind}'s folder or hub id")
    return PEERS[kind].open(source, name or kind, dtype).to(device)
