"""Panoptic quality, mean IoU, parsing covering and average precision.

`panoptic_quality`, `semantic_iou`, `parsing_covering` and `instance_ap` are `clu.metrics`, counted
on the device and summed on the host. `averages`, `coco_ap` and `cityscapes_ap` turn these sums, or
those counted from files, into the published numbers; they use NumPy only.
"""
