"""Runs over frames: proposing, evaluating, fitting."""

import functools
import json
import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from pdl_jax.proposals.class_model import ClassModel
from pdl_jax.proposals.fitting import FitOptions, LabelledFrame, fit_classes
from pdl_jax.proposals.frames import read_frame
from pdl_jax.proposals.kitti import FrameFiles, read_labels
from pdl_jax.proposals.kitti_label import ObjectLabel
from pdl_jax.proposals.model_file import write_models
from pdl_jax.proposals.options import ProposalOptions
from pdl_jax.proposals.output_files import write_pictures, write_proposals
from pdl_jax.proposals.potentials import NAMES
from pdl_jax.proposals.proposer import propose
from pdl_jax.proposals.recall import RecallCounter, format_recall, select_objects
from pdl_jax.proposals.recall_page import write_recall_page
from pdl_jax.runtime.progress import show_items
from pdl_jax.storage.paths import make_path, write_whole


def propose_frames(
    frames: Sequence[FrameFiles],
    source: str,
    models: Mapping[str, ClassModel],
    options: ProposalOptions,
    *,
    output: str,
    difficulty: str | None = None,
    num_drawn: int = 0,
) -> None:
    """Writes the proposals of frames, pictures of them, and their recall.

    Args:
      frames: their files.
      source: one of `frames.SOURCES`.
      models: by class.
      options: see there.
      output: folder, local or gs://.
      difficulty: a key of `recall.DIFFICULTIES` to compare with the labels, which the frames must
        have; None does not.
      num_drawn: proposals of each class in pictures; 0 writes no pictures.

    Raises:
      OSError, ValueError, ImportError: see `frames.read_frame`; or a result cannot be written.
    """
    folder = make_path(output)
    folder.mkdir(parents=True, exist_ok=True)
    counter = RecallCounter(options.num_proposals)
    seconds = []
    for files in show_items(frames, 'proposing'):
        labels = _read_labels(files, is_needed=difficulty is not None)
        frame = read_frame(files, source)
        start = time.monotonic()
        scene = frame.make_scene(options)
        proposals = {kind: propose(scene, model, options=options) for kind, model in models.items()}
        jax.block_until_ready(proposals)
        seconds.append(time.monotonic() - start)
        write_proposals(folder, frame, scene, proposals)
        if num_drawn:
            write_pictures(
                folder, frame, proposals, labels, num_drawn=num_drawn, options=options.grid
            )
        for kind, best in proposals.items() if difficulty else ():
            counter.add(kind, best, select_objects(labels, kind, difficulty or ''))
    rate = f', {np.median(seconds[1:]):.2f} s each after the first' if seconds[1:] else ''
    print(f'wrote proposals of {len(frames)} frames to {output}{rate}')
    if difficulty:
        report = {'difficulty': difficulty, 'source': source, **counter.summarize()}
        write_whole(folder / 'recall.json', f'{json.dumps(report, indent=1)}\n'.encode())
        write_recall_page(folder / 'recall.html', report)
        print(format_recall(report))


def fit_frames(
    frames: Sequence[FrameFiles],
    source: str,
    kinds: Sequence[str],
    options: ProposalOptions,
    fit: FitOptions,
    *,
    output: str,
) -> None:
    """Learns classes from labelled frames, and writes them.

    Args:
      frames: their files, with labels.
      source: one of `frames.SOURCES`.
      kinds: the classes.
      options, fit: see there.
      output: JSON file, local or gs://.

    Raises:
      OSError, ValueError, ImportError: see `frames.read_frame` and `fitting.fit_classes`; or the
        file cannot be written.
    """
    labelled = [
        LabelledFrame(
            functools.partial(read_frame, files, source), _read_labels(files, is_needed=True)
        )
        for files in frames
    ]
    fitted = fit_classes(labelled, kinds, options, fit)
    for kind, (model, result) in fitted.items():
        count = sum(label.kind == kind for frame in labelled for label in frame.labels)
        weights = zip(NAMES, np.asarray(model.weights).tolist(), strict=True)
        words = ', '.join(f'{name} {weight:.3g}' for name, weight in weights)
        print(
            f'{kind}: {count} objects, {len(model.templates_m)} templates, weights {words} '
            f'({int(result.num_cuts)} cuts, slack {float(result.slack):.3f})'
        )
    origin = {
        'num_frames': len(frames),
        'source': source,
        'regularization': fit.regularization,
        'voxel_m': options.grid.voxel_m,
    }
    write_models(output, {kind: model for kind, (model, _) in fitted.items()}, origin)
    print(f'wrote {output}')


def _read_labels(files: FrameFiles, *, is_needed: bool) -> list[ObjectLabel]:
    """Reads the objects of a frame; none if it has no file and none is needed."""
    if files.labels is not None:
        return read_labels(files.labels)
    if is_needed:
        raise FileNotFoundError(
            f'frame {files.name} has no file label_2/{files.name}.txt, which fitting and '
            f'evaluation need: take --part=training, or list frames that have labels in --names'
        )
    return []
