"""The vectorised dealing against one that walks token by token.

Array letters: T token.
"""

from hypothesis import given
from hypothesis import strategies as st

from moesim.trace.assignment import Mode, assign


def _walk(lengths: list[int], num_ranks: int, mode: Mode, tokens_per_rank: int | None) -> list[tuple[int, int]]:
    """(step, rank) of every token in the order of the sequences, by the words of the rule."""
    tokens = [(sequence, place) for sequence, length in enumerate(lengths) for place in range(length)]
    sequences = [[token for token in tokens if token[0] == sequence] for sequence in range(len(lengths))]
    if len(sequences) < num_ranks:
        sequences = []
        for chunk in range(num_ranks):
            size = len(tokens) // num_ranks + (chunk < len(tokens) % num_ranks)
            start = sum(map(len, sequences))
            sequences.append(tokens[start : start + size])
    dealt: dict[tuple[int, int], tuple[int, int]] = {}
    for rank in range(num_ranks):
        waiting = sequences[rank::num_ranks]
        if tokens_per_rank is None:
            dealt |= {token: (0, rank) for sequence in waiting for token in sequence}
        elif mode == "decode":
            dealt |= _decode(waiting, rank, tokens_per_rank)
        else:
            stream = [token for sequence in waiting for token in sequence]
            dealt |= {token: (place // tokens_per_rank, rank) for place, token in enumerate(stream)}
    return [dealt[token] for token in tokens]


def _decode(waiting: list[list[tuple[int, int]]], rank: int, most: int) -> dict[tuple[int, int], tuple[int, int]]:
    queue = [list(sequence) for sequence in waiting if sequence]
    running: list[list[tuple[int, int]]] = []
    dealt, step = {}, 0
    while queue or running:
        while queue and len(running) < most:
            running.append(queue.pop(0))
        for sequence in running:
            dealt[sequence.pop(0)] = (step, rank)
        running = [sequence for sequence in running if sequence]
        step += 1
    return dealt


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=14),
    num_ranks=st.integers(1, 6),
    mode=st.sampled_from(["decode", "prefill", "train"]),
    tokens_per_rank=st.one_of(st.none(), st.integers(1, 7)),
)
def test_every_token_lands_where_walking_puts_it(
    lengths: list[int], num_ranks: int, mode: Mode, tokens_per_rank: int | None
) -> None:
    """Step and rank of each token, and the number of steps, agree with the token-by-token rule."""
    expected = _walk(lengths, num_ranks, mode, tokens_per_rank)
    dealt = assign(lengths, num_ranks=num_ranks, mode=mode, tokens_per_rank=tokens_per_rank)
    assert expected == list(zip(dealt.step_T.tolist(), dealt.rank_T.tolist(), strict=True))
    assert max(step for step, _ in expected) + 1 == dealt.num_steps
