"""COCO's codes of region masks."""

import pytest
import torch

from adapters.rle import decode_rle, encode_rle, fill_polygons, unpack
from qformer.contracts import RegionError


def test_a_known_string_says_what_coco_says():
    # 3 x 4, columns first: two zeros, three ones, then zeros; from COCO's own definition
    region_mask = decode_rle({"size": [3, 4], "counts": [2, 3, 7]})
    assert region_mask.T.flatten().tolist() == [False] * 2 + [True] * 3 + [False] * 7
    assert unpack("237") == [2, 3, 7]


@pytest.mark.parametrize("size", [(1, 1), (7, 5), (61, 83), (300, 448)])
def test_what_is_written_is_read_again(size):
    for share in (0.0, 0.02, 0.5, 1.0):
        region_mask = torch.rand(size, generator=torch.Generator().manual_seed(1)) < share
        assert decode_rle(encode_rle(region_mask)).equal(region_mask)


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [3, 4], "counts": [2, 3]},
        {"size": [3, 4], "counts": "23"},
        {"size": [3, 4], "counts": [2, -3, 13]},
        {"size": [3, 4], "counts": "2\x60"},
        {"size": "3 x 4", "counts": []},
        {"counts": [12]},
    ],
)
def test_a_damaged_code_says_so(rle):
    with pytest.raises(RegionError):
        decode_rle(rle)


def test_polygons_are_filled():
    filled = fill_polygons([[1, 1, 5, 1, 5, 4, 1, 4]], (6, 8))
    assert filled[2, 3]
    assert not filled[0].any()
    assert not filled[:, 6:].any()
    with pytest.raises(RegionError, match="three corners"):
        fill_polygons([[1, 1, 5, 1]], (6, 8))
