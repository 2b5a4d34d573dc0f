"""Host side of the data: dataset descriptions, annotation readers, records and input pipelines.

Read `catalog` (which classes), `panoptic_folder` (the official annotation format), `prepare`
(writes records), `records` (what they hold) and `pipeline` (batches) in this order. Nothing here
imports TensorFlow.
"""
