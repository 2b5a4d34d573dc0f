"""Scores predictions of any program from files in the COCO panoptic format."""
