"""Published rates of TPU chips."""

import dataclasses

# Cloud TPU's system architecture pages, https://docs.cloud.google.com/tpu/docs/ (v4, v5e, v5p, v6e, tpu7x), state compute and
# memory per chip, and of all but v4 the interconnect of all links in both directions: 400, 1200, 800 and 1200 GB/s. v4 has six
# links of 50 GB/s each way (Jouppi et al., TPU v4, ISCA 2023).


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip.

    Attributes:
      flops_per_second: peak of bfloat16 products.
      hbm_bytes: main memory.
      hbm_bytes_per_second: to and from the main memory.
      link_bytes_per_second: of one link to a neighbour, in one direction.
      wrap_multiple: an axis of a slice closes to a ring where its length is a multiple of this.
    """

    flops_per_second: float
    hbm_bytes: int
    hbm_bytes_per_second: float
    link_bytes_per_second: float
    wrap_multiple: int

    def egress_bytes_per_second(self, grid: tuple[int, ...]) -> float:
        """What a corner chip of a slice, the one with the fewest neighbours, sends over its links together."""
        num_links = sum(2 if n % self.wrap_multiple == 0 else 1 for n in grid if n > 1)
        return num_links * self.link_bytes_per_second

    def count_hops(self, grid: tuple[int, ...]) -> int:
        """Steps between the chips of a slice that lie farthest apart."""
        return sum(n // 2 if n % self.wrap_multiple == 0 else n - 1 for n in grid)


CHIPS = {
    'v4': Chip(275e12, 32 * 2**30, 1200e9, 50e9, wrap_multiple=4),
    'v5e': Chip(197e12, 16 * 2**30, 819e9, 50e9, wrap_multiple=16),
    'v5p': Chip(459e12, 95 * 2**30, 2765e9, 100e9, wrap_multiple=4),
    'v6e': Chip(918e12, 32 * 2**30, 1638e9, 100e9, wrap_multiple=16),
    'tpu7x': Chip(2307e12, 192 * 2**30, 7380e9, 100e9, wrap_multiple=4),
}

# To pass one chip on the way: https://jax-ml.github.io/scaling-book/sharding.
HOP_SECONDS = 1e-6
