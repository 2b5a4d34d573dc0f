"""From the network's outputs to a panoptic label map; pure functions of one image."""
