"""Attention against its definition, and windows that lose nothing."""

import pytest
import torch
from torch import Tensor

from cwsam_cli.model.attention import Attention, window_partition, window_unpartition

# B batch, H W patches, D width, N heads, d = D/N


def _attention(dim: int, heads: int, grid: tuple[int, int]) -> Attention:
    torch.manual_seed(0)
    attention = Attention(dim, heads, grid).double()
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    return attention


def _by_definition(attention: Attention, x: Tensor) -> Tensor:
    """One query, one key, one head at a time: q·k / √d + q·r(row distance) + q·r(column distance)."""
    batch, height, width, dim = x.shape
    heads, d = attention.num_heads, dim // attention.num_heads
    positions = [(row, col) for row in range(height) for col in range(width)]
    out = torch.empty_like(x)
    for image in range(batch):
        q, k, v = attention.qkv(x[image]).split(dim, dim=-1)
        for row, col in positions:
            per_head = []
            for head in range(heads):
                part = slice(head * d, (head + 1) * d)
                query = q[row, col, part]
                scores = torch.stack(
                    [
                        query @ k[y, x_, part] / d**0.5
                        + query @ attention.rel_pos_h[row - y + height - 1]
                        + query @ attention.rel_pos_w[col - x_ + width - 1]
                        for y, x_ in positions
                    ]
                )
                weights = scores.exp() / scores.exp().sum()
                per_head.append(sum(w * v[y, x_, part] for w, (y, x_) in zip(weights, positions, strict=True)))
            out[image, row, col] = attention.proj(torch.cat(per_head))
    return out


@pytest.mark.parametrize("learning", [False, True])
@pytest.mark.parametrize(("heads", "height", "width"), [(1, 1, 1), (2, 3, 3), (2, 2, 4), (3, 4, 2)])
def test_attention_is_its_definition_with_relative_positions(
    heads: int, height: int, width: int, learning: bool
) -> None:
    attention = _attention(6, heads, (height, width))
    x = torch.randn(2, height, width, 6, dtype=torch.float64)
    with torch.set_grad_enabled(learning):
        torch.testing.assert_close(attention(x), _by_definition(attention, x))


@pytest.mark.parametrize("table", ["rel_pos_h", "rel_pos_w"])
def test_both_relative_position_tables_matter(table: str) -> None:
    attention = _attention(4, 2, (3, 3))
    x = torch.randn(1, 3, 3, 4, dtype=torch.float64)
    before = attention(x)
    with torch.no_grad():
        getattr(attention, table).zero_()
    assert not torch.allclose(before, attention(x))


def test_without_relative_positions_attention_knows_no_order() -> None:
    attention = _attention(4, 2, (2, 3))
    with torch.no_grad():
        attention.rel_pos_h.zero_()
        attention.rel_pos_w.zero_()
    x = torch.randn(1, 2, 3, 4, dtype=torch.float64)
    torch.testing.assert_close(attention(x.flip(2)).flip(2), attention(x))


def test_relative_positions_start_at_zero_and_span_every_distance() -> None:
    attention = Attention(8, 2, (3, 5))
    assert (attention.rel_pos_h.shape, attention.rel_pos_w.shape) == ((5, 4), (9, 4))
    assert not attention.rel_pos_h.any()
    assert not attention.rel_pos_w.any()


def test_images_of_a_batch_do_not_see_each_other() -> None:
    attention = _attention(4, 2, (2, 2))
    x = torch.randn(2, 2, 2, 4, dtype=torch.float64)
    torch.testing.assert_close(attention(x)[1:], attention(x[1:]))


@pytest.mark.parametrize(
    ("height", "width", "size"), [(1, 1, 1), (1, 9, 4), (7, 5, 3), (8, 8, 4), (14, 14, 14), (5, 6, 7), (32, 32, 14)]
)
def test_windows_go_back_to_where_they_were_cut(height: int, width: int, size: int) -> None:
    x = torch.randn(2, height, width, 3)
    windows, padded = window_partition(x, size)
    assert padded == (-(-height // size) * size, -(-width // size) * size)
    assert windows.shape == (2 * (padded[0] // size) * (padded[1] // size), size, size, 3)
    assert torch.equal(window_unpartition(windows, padded, height, width), x)


@pytest.mark.parametrize("seed", range(10))
def test_windows_of_random_sizes_go_back_too(seed: int) -> None:
    torch.manual_seed(seed)
    batch, height, width, size = (int(torch.randint(1, most, ())) for most in (4, 40, 40, 16))
    x = torch.randn(batch, height, width, 2)
    windows, padded = window_partition(x, size)
    assert torch.equal(window_unpartition(windows, padded, height, width), x)


def test_a_window_is_a_square_of_neighbours() -> None:
    x = torch.arange(24.0).view(1, 4, 6, 1)
    windows, _ = window_partition(x, 2)
    assert [window.flatten().tolist() for window in windows[:4]] == [
        [0, 1, 6, 7],
        [2, 3, 8, 9],
        [4, 5, 10, 11],
        [12, 13, 18, 19],
    ]


def test_padding_is_zero_and_lies_below_and_to_the_right() -> None:
    windows, padded = window_partition(torch.ones(1, 3, 3, 1), 2)
    assert padded == (4, 4)
    assert windows[..., 0].tolist() == [[[1, 1], [1, 1]], [[1, 0], [1, 0]], [[1, 1], [0, 0]], [[1, 0], [0, 0]]]
