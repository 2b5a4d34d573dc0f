"""The command `score`: scores predictions of any program from files in the COCO panoptic format."""

import argparse
import sys

SUMMARY: str = 'score predictions of any program from files in the COCO panoptic format'
EXAMPLES: str = """\
pdl_jax score --gt_json=gt.json --gt_folder=gt --pred_json=pred.json --pred_folder=pred
pdl_jax score --gt_json=gt.json --gt_folder=gt --pred_json=pred.json --pred_folder=pred \\
    --metrics=pq,ap --dataset=cityscapes --output=report.json --report=report.html
"""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    parser.add_argument('--gt_json', required=True, help='JSON file of the labels')
    parser.add_argument('--gt_folder', required=True, help='folder of the PNGs of the labels')
    parser.add_argument('--pred_json', required=True, help='JSON file of the predictions')
    parser.add_argument(
        '--pred_folder', required=True, help='folder of the PNGs of the predictions'
    )
    parser.add_argument(
        '--metrics',
        default='pq,miou,ap,pc',
        help='some of pq (panoptic, segmentation and recognition quality), miou (mean IoU of '
        'classes; predicted void is a miss), ap (average precision of things; the score of a '
        "detection is the field 'score' of its entry in segments_info, 1 if absent), pc (parsing "
        'covering, areas as shares of the image), separated by commas (default: %(default)s)',
    )
    parser.add_argument(
        '--dataset',
        choices=('coco', 'cityscapes'),
        default='coco',
        help='rules of average precision: those of pycocotools or of cityscapesscripts (default: '
        '%(default)s)',
    )
    parser.add_argument(
        '--output',
        help='JSON file to write, local or gs://: fractions, null where nothing is averaged',
    )
    parser.add_argument(
        '--report', metavar='FILE', help='HTML page to write, local or gs://; see pdl_jax report'
    )
    parser.add_argument(
        '--images', metavar='DIR', help='folder of the images, for the pictures of --report'
    )
    parser.add_argument(
        '--num_processes', type=int, help='upper bound of processes (default: one per CPU core)'
    )


def run(flags: argparse.Namespace) -> None:
    """Scores the files, prints a table in percent and writes the report if told to.

    Raises:
      ImportError: a gs:// path without the package that reads buckets.
      OSError: a file is missing, or the report cannot be written.
      RuntimeError: a process was killed.
      ValueError: a flag has an unknown value, or files are damaged or contradict each other.
    """
    # Imported here so that --help needs neither NumPy nor the rest of the package.
    from pdl_jax.evaluation.files.file_analysis import FileAnalysis
    from pdl_jax.evaluation.files.score_files import evaluate_files
    from pdl_jax.evaluation.report import format_report, write_report

    if flags.images and not flags.report:
        raise ValueError('--images is for the pictures of the page: give --report=FILE.html too')
    analysis = FileAnalysis(flags.images) if flags.report else None
    report, categories = evaluate_files(
        gt_json=flags.gt_json,
        gt_folder=flags.gt_folder,
        pred_json=flags.pred_json,
        pred_folder=flags.pred_folder,
        metrics=flags.metrics.split(','),
        dataset=flags.dataset,
        num_processes=flags.num_processes,
        analysis=analysis,
    )
    names = dict(zip(categories.keys, categories.names, strict=True))
    if flags.output:
        write_report(report, flags.output)
    if analysis is not None:
        from pdl_jax.evaluation.page.page import write_page
        from pdl_jax.evaluation.page.scored import Scored

        scored = Scored(flags.pred_json, report, analysis.values, class_names=names)
        write_page(flags.report, scored)
    print(format_report(report, names))
    for note in report['notes']:
        print(f'note: {note}', file=sys.stderr)
