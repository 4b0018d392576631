"""Rows: token copies as they cross the wire: a header of 16 bytes (token, slots), then the token's channels in fp32."""

import torch

HEADER_BYTES = 16
MOST_SLOTS = 12  # of one copy: what the header has room for
NO_SLOT = 255


def row_bytes(width: int) -> int:
    """Bytes of one copy of a token with `width` channels."""
    return HEADER_BYTES + 4 * width


def pack(values: torch.Tensor, token: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Rows uint8 [n, row_bytes] of values [n, width] fp32, tokens [n] and slots [n, k] (-1 = none)."""
    rows = torch.full((len(values), row_bytes(values.shape[1])), NO_SLOT, dtype=torch.uint8)
    rows[:, :4] = token.to(torch.int32)[:, None].view(torch.uint8)
    rows[:, 4 : 4 + slots.shape[1]] = torch.where(slots < 0, NO_SLOT, slots).to(torch.uint8)
    values_of(rows).copy_(values)
    return rows


def values_of(rows: torch.Tensor) -> torch.Tensor:
    """The channels of rows, fp32 [n, width], sharing their memory."""
    return rows[:, HEADER_BYTES:].view(torch.float32)


def tokens_of(rows: torch.Tensor) -> torch.Tensor:
    """The tokens of rows, int64 [n]."""
    return rows[:, :4].contiguous().view(torch.int32)[:, 0].to(torch.int64)


def slots_of(rows: torch.Tensor) -> torch.Tensor:
    """The slots in the headers, uint8 [n, 12], NO_SLOT where there is none."""
    return rows[:, 4:HEADER_BYTES]
