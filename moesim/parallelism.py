"""ParallelDims: how many ranks each kind of parallelism takes, checked against the world size."""

from dataclasses import dataclass

from moesim.errors import InputError


def divisors(number: int, *, most: int = 12) -> str:
    """The divisors of `number` as a list for messages, cut after `most`.

    >>> divisors(64)
    '1, 2, 4, 8, 16, 32, 64'
    """
    found = [d for d in range(1, number + 1) if number % d == 0] if number <= 1 << 20 else [1]
    return ", ".join(map(str, found[:most])) + (", ..." if len(found) > most else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelDims:
    """Sizes of the process groups.

    Attention side: dp * tp * pp = world. Expert side: edp * ep * etp * pp = world, where edp counts the copies of the
    whole set of experts (expert data parallelism). Ranks of one expert-parallel group are consecutive devices.
    """

    world: int
    ep: int
    dp: int
    tp: int = 1
    pp: int = 1
    etp: int = 1

    def __post_init__(self) -> None:
        for name in ("world", "ep", "dp", "tp", "pp", "etp"):
            value = getattr(self, name)
            if value < 1:
                raise InputError(f"parallel.{name}={value} must be at least 1")
        expert_side = self.ep * self.etp * self.pp
        if self.world % expert_side:
            raise InputError(
                f"ep={self.ep} x etp={self.etp} x pp={self.pp} = {expert_side} does not divide world_size={self.world}; "
                f"divisors: {divisors(self.world)}"
            )
        if self.dp * self.tp * self.pp != self.world:
            raise InputError(
                f"dp={self.dp} x tp={self.tp} x pp={self.pp} = {self.dp * self.tp * self.pp} is not "
                f"world_size={self.world}; leave dp out to take what is left"
            )

    @property
    def edp(self) -> int:
        """Expert data parallelism: how many groups hold all the experts."""
        return self.world // (self.ep * self.etp * self.pp)

    @classmethod
    def for_world(
        cls, world: int, *, ep: int | None = None, dp: int | None = None, tp: int = 1, pp: int = 1, etp: int = 1
    ) -> "ParallelDims":
        """Dims for `world` ranks; an ep or dp left out takes what the others leave.

        >>> ParallelDims.for_world(64, ep=32).edp
        2
        """
        if min(tp, pp, etp) < 1:
            raise InputError(f"parallel degrees must be at least 1, got tp={tp}, pp={pp}, etp={etp}")
        ep = max(world // (etp * pp), 1) if ep is None else ep
        dp = max(world // (tp * pp), 1) if dp is None else dp
        return cls(world=world, ep=ep, dp=dp, tp=tp, pp=pp, etp=etp)
