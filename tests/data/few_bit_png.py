"""PNG of grey levels of few bits, which Pillow reads and, from 12.3 on, no longer writes."""

import struct
import zlib

import numpy as np


def encode_grey(values: np.ndarray, bits: int) -> bytes:
    """Encodes u8[H, W] below 2**bits as PNG of 1, 2 or 4 bits."""
    height, width = values.shape
    # Most significant bits first, rows padded to whole bytes and begun by the filter 'none'.
    places = np.unpackbits(values[..., None], axis=-1)[..., -bits:].reshape(height, -1)
    rows = np.pad(np.packbits(places, axis=1), ((0, 0), (1, 0)))
    header = struct.pack('>IIBBBBB', width, height, bits, 0, 0, 0, 0)
    chunks = ((b'IHDR', header), (b'IDAT', zlib.compress(rows.tobytes())), (b'IEND', b''))
    return b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
        for name, data in chunks
    )
