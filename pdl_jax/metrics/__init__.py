"""Metrics that are counted on the device and summed on the host, and the same over files.

`panoptic_quality`, `semantic_iou`, `parsing_covering` and `instance_ap` are `clu.metrics` for the
evaluation loop; `evaluate_files` is a command. Both end in `averages`, `coco_ap` and `cityscapes_ap`.
"""
