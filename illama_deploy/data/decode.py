"""Image files to Pillow images: what cannot be decoded is one kind of error, whatever Pillow made of it."""

from __future__ import annotations

import io
import os
import stat
import warnings
from functools import cache
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from ..errors import DataError
from ..names import shown

__all__ = [
    "BrokenMaskError",
    "UndecodableError",
    "alteration",
    "decode",
    "image_suffixes",
    "open_image",
    "open_regular",
]

#: What is read, as Pillow calls it. Left out are what starts programs (EPS), what any bytes pass for (TGA), and more.
FORMATS = ("PNG", "JPEG", "MPO", "GIF", "BMP", "DIB", "PPM", "TIFF", "WEBP", "JPEG2000", "AVIF")
#: Modes whose conversion to grey or RGB is plain; Pillow clips others, or cannot convert them.
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
#: Longer side by shorter side. To give a narrower image the network's height, its width would be gigabytes.
MAX_RATIO = 200
#: A progressive JPEG's scans, and pixels over all of them: each is a pass over the image, however few bytes it has.
MAX_SCANS, MAX_SCANNED = 50, 1_500_000_000

_ALTERED = "illama_deploy.altered"


class UndecodableError(ValueError):
    """An image that cannot be decoded; the text says why, in half a sentence."""


class BrokenMaskError(DataError):
    """The labels of an image's pixels cannot be decoded."""


@cache
def _formats() -> tuple[str, ...]:
    Image.init()
    return tuple(name for name in FORMATS if name in (*Image.OPEN, "MPO"))


@cache
def image_suffixes() -> frozenset[str]:
    """Endings, lower case and with the dot, of the files that are read as images."""
    _formats()
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in _formats())


def open_regular(path: str | Path) -> IO[bytes]:
    """Open a file, without waiting on what is none (a pipe, a device).

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("it is no regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def open_image(source: str | Path | bytes | IO[bytes]) -> Image.Image:
    """Decode the first frame of an image: a path, encoded bytes or an opened file (which is closed), in its own mode.

    Raises:
        UndecodableError: it cannot be opened or decoded, or would unfold to more than an image is.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            file = io.BytesIO(source) if isinstance(source, bytes) else source
            with open_regular(file) if isinstance(file, str | Path) else file as opened:
                image = Image.open(opened, formats=[name for name in _formats() if name != "MPO"])
                _check_size(image)
                _check_scans(image, opened)
                if _has_more(image):
                    image.info[_ALTERED] = "only the first of several frames was read"
                image.load()
                return image
    except UndecodableError:
        raise
    except UnidentifiedImageError as error:
        raise UndecodableError("it is no image of a known kind") from error
    except OSError as error:
        raise UndecodableError(shown(error.strerror or error)) from error
    except Exception as error:  # damaged files raise nearly anything from inside decoders
        lines = str(error).splitlines()
        raise UndecodableError(shown(lines[0] if lines else type(error).__name__)) from error


def decode(source: str | Path | bytes | IO[bytes]) -> Image.Image:
    """Decode as `open_image` does, to 8 bits for each channel: pixels of 16 bits are scaled, not clipped.

    Raises:
        UndecodableError: it cannot be decoded, or its pixels have no known range.
    """
    image = open_image(source)
    if image.mode in MODES:
        return image
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        bits = getattr(image, "tag_v2", {}).get(258)
        top = 4095 if bits in (12, (12,)) else 65535
        pixels = np.asarray(image).astype(np.int64).clip(0, top)
        scaled = Image.fromarray(((pixels * 255 + top // 2) // top).astype(np.uint8))
        scaled.info[_ALTERED] = "pixels of 16 bits were scaled to 8"
        return scaled
    raise UndecodableError(f"its pixels, of Pillow's mode {image.mode!r}, have no known range; save it with 8 bits")


def alteration(image: Image.Image) -> str | None:
    """What was changed or left out when the image was decoded; None where nothing was."""
    return image.info.get(_ALTERED)


def _check_size(image: Image.Image) -> None:
    """Refuse what a Pillow plugin lets by."""
    width, height = image.size
    if min(image.size) < 1:
        raise UndecodableError("it has no pixels")
    if max(image.size) > MAX_RATIO * min(image.size):
        raise UndecodableError(f"its {width}×{height} pixels are no image but a line")


def _check_scans(image: Image.Image, file: IO[bytes]) -> None:
    if image.format not in ("JPEG", "MPO") or not image.info.get("progressive"):
        return
    at = file.tell()
    file.seek(0)
    most = min(MAX_SCANS, MAX_SCANNED // (image.width * image.height))
    scans, last = 0, b""
    while scans <= most and (block := file.read(ImageFile.MAXBLOCK * 16)):
        scans += (last + block).count(b"\xff\xda")
        last = block[-1:]
    file.seek(at)
    if scans > most:
        raise UndecodableError(f"it is made of more than {most} scans")


def _has_more(image: Image.Image) -> bool:
    """Whether frames follow the first. The smaller pictures that cameras add to a JPEG are none."""
    if image.format in ("JPEG", "MPO"):
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what follows is damaged; the first frame may be sound
        return True
