"""The report page of one evaluation, or of two and their difference."""

import os

from pdl_jax.evaluation.page.comparison import make_comparison_sections
from pdl_jax.evaluation.page.confusion import make_confusion_section
from pdl_jax.evaluation.page.curves import draw_curves
from pdl_jax.evaluation.page.html import Html, make_document, make_section, tag
from pdl_jax.evaluation.page.scored import Scored
from pdl_jax.evaluation.page.sections import (
    make_calibration_section,
    make_cards,
    make_class_section,
    make_image_section,
    make_loss_section,
    make_size_section,
)
from pdl_jax.storage.paths import make_path, write_whole

_CONTENTS = {
    'difference': 'Difference',
    'class-difference': 'Classes of both',
    'loss-difference': 'Losses of both',
    'image-difference': 'Images of both',
    'classes': 'Classes',
    'loss': 'What PQ loses',
    'confusion': 'Confusion',
    'sizes': 'Sizes',
    'calibration': 'Calibration',
    'curves': 'Learning curves',
    'images': 'Images',
}


def make_page(scored: Scored, other: Scored | None = None) -> str:
    """Makes the HTML of the page.

    Args:
      scored: the evaluation.
      other: one to compare with.
    """
    sections = [
        *(make_comparison_sections(scored, other) if other else ()),
        make_class_section(scored),
        make_loss_section(scored),
        make_confusion_section(scored),
        make_size_section(scored),
        make_calibration_section(scored),
        _make_curve_section(scored, other),
        make_image_section(scored),
    ]
    sections = [section for section in sections if section is not None]
    contents = [
        tag('a', title, href=f'#{identifier}')
        for identifier, title in _CONTENTS.items()
        if any(section.startswith(f'<section id="{identifier}"') for section in sections)
    ]
    step = scored.report.get('step')
    facts = [f'{scored.report["num_images"]:,} images']
    facts += [] if step is None else [f'step {step:,}']
    header = tag('header', tag('h1', scored.name), tag('div', ', '.join(facts), class_='soft'))
    body = [
        header,
        *(tag('p', text, class_='warning') for text in _list_remarks(scored)),
        make_cards(scored),
        tag('nav', *contents, aria_label='Contents'),
        *sections,
    ]
    return make_document(f'Report: {scored.name}', body)


def write_page(path: str | os.PathLike, scored: Scored, other: Scored | None = None) -> None:
    """Writes the page; an existing file is replaced in one step.

    Raises:
      OSError: the file cannot be written.
    """
    file = make_path(path)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_whole(file, make_page(scored, other).encode())


def _list_remarks(scored: Scored) -> list[str]:
    """Lists what a reader must know of the labels, the files and the configuration."""
    return [
        *(text for key in ('warnings', 'notes', 'changed') for text in scored.report.get(key, ()))
    ]


def _make_curve_section(scored: Scored, other: Scored | None) -> Html | None:
    runs = [(scored.name, scored.curves)]
    # Two steps of one run have the same curves.
    if other is not None and other.curves != scored.curves:
        runs.append((other.name, other.curves))
    charts = draw_curves([run for run in runs if run[1]])
    if not charts:
        return None
    return make_section('curves', 'Learning curves', tag('div', *charts, class_='row'))
