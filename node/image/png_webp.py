"""PNG and WebP: decoding of pictures that some cameras send in the place of JPEG."""

import io

import numpy as np
from PIL import Image as PilImage
from PIL import PngImagePlugin, WebPImagePlugin

from node.errors import PictureError
from node.image.frame import Image
from node.image.limits import check_bytes, check_pixels

PNG_START, RIFF_START = b"\x89PNG\r\n\x1a\n", b"RIFF"
OTHER_STARTS = (PNG_START, RIFF_START)
_DECODERS = (PngImagePlugin.PngImageFile, WebPImagePlugin.WebPImageFile)


def decode_png_or_webp(data: bytes) -> Image:
    """Decodes to [height, width, 3] uint8 BGR. Raises PictureError for other, truncated and damaged
    data, and for a claimed size above the limits."""
    check_bytes(len(data))
    decoder = _DECODERS[data.startswith(RIFF_START)]
    try:
        # Without PIL.Image.open, which has a limit of its own.
        with decoder(io.BytesIO(data)) as opened:
            check_pixels(*opened.size)
            rgb = np.asarray(opened.convert("RGB"))
    except PictureError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, PilImage.DecompressionBombError) as error:
        raise PictureError(f"a picture is damaged: {error}") from error
    return np.ascontiguousarray(rgb[:, :, ::-1])
