"""Scores of any program's predictions, from files in the COCO panoptic format."""
