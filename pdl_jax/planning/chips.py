"""Published rates of TPU chips."""

import dataclasses

# Source: the system architecture pages of Cloud TPU, https://docs.cloud.google.com/tpu/docs/ (v4,
# v5e, v5p, v6e, tpu7x). They give compute and memory per chip and, except for v4, the interconnect
# of all links in both directions: 400, 1200, 800 and 1200 GB/s. v4 has six links of 50 GB/s per
# direction (Jouppi et al., TPU v4, ISCA 2023).


@dataclasses.dataclass(frozen=True)
class Chip:
    """Published rates of one chip.

    Attributes:
      flops_per_second: peak bfloat16 rate.
      hbm_bytes: capacity of the main memory.
      hbm_bytes_per_second: bandwidth of the main memory, reads and writes together.
      link_bytes_per_second: bandwidth of one link to a neighbour, per direction.
      wrap_multiple: length of which an axis must be a multiple for wrap-around links.
    """

    flops_per_second: float
    hbm_bytes: int
    hbm_bytes_per_second: float
    link_bytes_per_second: float
    wrap_multiple: int

    def egress_bytes_per_second(self, grid: tuple[int, ...]) -> float:
        """Returns the egress bandwidth of a corner chip, which has the fewest links of a slice."""
        num_links = sum(2 if n % self.wrap_multiple == 0 else 1 for n in grid if n > 1)
        return num_links * self.link_bytes_per_second

    def count_hops(self, grid: tuple[int, ...]) -> int:
        """Returns the diameter of a slice in hops."""
        return sum(n // 2 if n % self.wrap_multiple == 0 else n - 1 for n in grid)


CHIPS = {
    'v4': Chip(275e12, 32 * 2**30, 1200e9, 50e9, wrap_multiple=4),
    'v5e': Chip(197e12, 16 * 2**30, 819e9, 50e9, wrap_multiple=16),
    'v5p': Chip(459e12, 95 * 2**30, 2765e9, 100e9, wrap_multiple=4),
    'v6e': Chip(918e12, 32 * 2**30, 1638e9, 100e9, wrap_multiple=16),
    'tpu7x': Chip(2307e12, 192 * 2**30, 7380e9, 100e9, wrap_multiple=4),
}

# Latency per hop. Source: https://jax-ml.github.io/scaling-book/sharding.
HOP_SECONDS = 1e-6
