"""Names of scores, for whoever reads them without JAX."""

# Those that rank checkpoints: of panoptic networks, of classifiers, of semantic networks.
SCORES = ('pq', 'top1', 'miou')
