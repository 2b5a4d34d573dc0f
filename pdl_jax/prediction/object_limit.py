"""The largest number of objects that a system predicts in an image, and images that reach it."""

from absl import logging

from pdl_jax.systems.system import System

# Some centres win no pixel, so that a full image has a few objects less.
_FULL_SHARE = 0.95
_MAX_WARNINGS = 3


def find_max_objects(system: System) -> int | None:
    """Returns the largest number of objects in a label map, None where classes alone bound it."""
    # One segment per centre or query, and one per class.
    max_objects = system.max_segments - system.label_format.num_classes
    return max_objects if system.has_instances and max_objects > 0 else None


def warn_of_full_image(system: System, num_objects: int) -> None:
    """Tells of an image with about as many objects as are predicted at most; thrice a process.

    Args:
      system: the system.
      num_objects: number of objects that were predicted.
    """
    limit = find_max_objects(system)
    if limit is not None and num_objects >= _FULL_SHARE * limit:
        logging.log_first_n(
            logging.WARNING,
            'an image has %d objects, about as many as are predicted at most (%d, '
            'config.%s): others may be missing, raise it',
            _MAX_WARNINGS,
            num_objects,
            limit,
            system.max_segments_field,
        )
