"""Id PNGs of every mode: read where they can mean one thing, refused where they could mean two."""

import io

import numpy as np
import pytest
from PIL import Image

from pdl_jax.data.images import encode_ids
from pdl_jax.data.segment_ids import decode_segment_ids
from tests.data.few_bit_png import encode_grey

IDS = np.array([[0, 1, 2], [3, 3, 200]], np.int32)


def save(image, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format='PNG', **options)
    return buffer.getvalue()


def make_palette_image(ids: np.ndarray, colors: list[int]) -> Image.Image:
    image = Image.fromarray(ids.astype(np.uint8)).convert('P')
    image.putpalette(colors + [0] * (768 - len(colors)))
    return image


def grey_rgb(ids):
    return Image.fromarray(np.repeat(ids.astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize(
    'data, told',
    [
        (encode_ids(IDS), False),
        (save(Image.open(io.BytesIO(encode_ids(IDS))).convert('RGBA')), False),
        (save(Image.fromarray(IDS.astype(np.uint8))), True),
        (save(Image.fromarray(IDS.astype(np.uint16))), True),
        (save(Image.fromarray(IDS.astype(np.uint8)).convert('LA')), True),
        (save(make_palette_image(IDS, [9, 8, 7] * 256)), True),
        (save(make_palette_image(IDS, [9, 8, 7] * 256), transparency=0), True),
        (save(grey_rgb(IDS)), True),
    ],
    ids=['RGB', 'RGBA', 'L', 'I;16', 'LA', 'P', 'P with transparency', 'grey RGB'],
)
def test_one_id_per_pixel_in_any_mode(data, told):
    ids, wording = decode_segment_ids(data, known=[1, 2, 3, 200], name='a.png')
    np.testing.assert_array_equal(ids, IDS)
    assert ids.dtype == np.int32 and bool(wording) == told


def test_few_bits():
    small = np.array([[0, 1], [1, 0]], np.uint8)
    one_bit = save(Image.fromarray(small * 255).convert('1'))
    np.testing.assert_array_equal(decode_segment_ids(one_bit, known=[1], name='a')[0], small)
    four_bits = encode_grey(small * 9, bits=4)
    np.testing.assert_array_equal(decode_segment_ids(four_bits, known=[9], name='a')[0], small * 9)


def test_an_optimised_palette_holds_the_ids_as_colours():
    # 300 = (44, 1, 0) and 70000 = (112, 17, 1), at the positions 1 and 2 of the palette.
    image = make_palette_image(np.array([[0, 1, 2]]), [0, 0, 0, 44, 1, 0, 112, 17, 1])
    ids, wording = decode_segment_ids(save(image), known=[300, 70000], name='a.png')
    assert ids.tolist() == [[0, 300, 70000]] and wording is None
    # And equal channels that were joined to one.
    grey = save(Image.fromarray(np.array([[0, 2]], np.uint8)))
    assert decode_segment_ids(grey, known=[2 * 65793], name='a')[0].tolist() == [[0, 2 * 65793]]


def test_what_could_mean_two_things_is_refused():
    image = make_palette_image(np.array([[0, 1, 2]]), [0, 0, 0, 2, 0, 0, 1, 0, 0])
    with pytest.raises(
        ValueError, match=r'a\.png has a palette .* both its values and its colours'
    ):
        decode_segment_ids(save(image), known=[1, 2], name='a.png')


def test_unknown_ids_are_left_to_the_caller():
    ids, _ = decode_segment_ids(encode_ids(IDS), known=[1], name='a.png')
    np.testing.assert_array_equal(ids, IDS)
    ids, wording = decode_segment_ids(
        save(Image.fromarray(IDS.astype(np.uint16))), known=[], name='a'
    )
    np.testing.assert_array_equal(ids, IDS)
    assert wording


def test_other_files_are_refused():
    with pytest.raises(ValueError, match=r'a\.png: not a readable PNG'):
        decode_segment_ids(b'\xff\xd8\xff', known=[], name='a.png')
    with pytest.raises(ValueError, match=r'a\.png: (damaged|not a readable)'):
        decode_segment_ids(encode_ids(IDS)[:60], known=[], name='a.png')
