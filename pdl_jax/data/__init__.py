"""Host side of the data: data set descriptions, annotation readers, records and input pipelines.

Reading order: `catalog` (classes), `readers.panoptic_folder` (the official annotation format),
`prepare` (writes records), `records` (reads them) and `pipeline` (batches). Nothing here imports
TensorFlow.
"""
