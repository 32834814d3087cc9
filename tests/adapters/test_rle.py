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


def test_a_region_is_written_as_pycocotools_writes_it():
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(60), indexing="ij")
    disc = (rows - 20) ** 2 + (columns - 30) ** 2 < 100
    assert encode_rle(disc) == {
        "size": [40, 60],
        "counts": "hj09n02M4N0O2N2O0000000000000001N2N102L3Nah0",
    }


def test_a_code_of_another_size_or_a_huge_one_is_refused_before_it_is_made():
    with pytest.raises(RegionError, match="drawn on 4 x 3 pixels, not on 5 x 3"):
        decode_rle({"size": [3, 4], "counts": [12]}, (3, 5))
    with pytest.raises(RegionError, match="64 million"):
        decode_rle({"size": [10**6, 10**6], "counts": [0, 10**12]})
    with pytest.raises(RegionError, match="2000000 at most"):
        decode_rle({"size": [3, 4], "counts": "0" * 2_000_001})


@pytest.mark.parametrize(
    "rle",
    [
        None,
        {"size": [3.0, 4], "counts": [12]},
        {"size": [0, 4], "counts": []},
        {"size": [3, 4], "counts": [float("inf")]},
        {"size": [3, 4], "counts": "o" * 60},
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
