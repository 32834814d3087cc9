import pytest
import torch

from adapters.grow import grow, inside, side


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_growing_side_by_side_is_growing_by_two_resizes(mode):
    low = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    device = torch.device("cpu")
    rows = side(16, 64, 48, 31, mode, device)
    columns = side(16, 64, 64, 97, mode, device)
    resize = torch.nn.functional.interpolate
    large = resize(low[None, None], (64, 64), mode=mode)[..., :48, :]
    expected = resize(large, (31, 97), mode=mode)[0, 0]
    torch.testing.assert_close(grow(low, rows, columns), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_a_region_is_grown_where_it_is_as_everywhere(mode):
    generator = torch.Generator().manual_seed(0)
    rows, columns = (side(16, 64, 48, full, mode, torch.device("cpu")) for full in (70, 110))
    for least in (-3.0, -1.0, 0.5, 9.0):
        logits = torch.randn(16, 16, generator=generator) - least
        logits[4:8, 6:9] += 3
        assert torch.equal(inside(logits, rows, columns), grow(logits, rows, columns) > 0)
