"""Picture files of every odd kind, made on the spot: those that can be used and those that cannot."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 6, 9


def colours(height=HEIGHT, width=WIDTH):
    """[H, W, 3] uint8: the upper half red, the lower left green, the lower right blue."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, :, 0] = 200
    picture[height // 2 :, : width // 3, 1] = 120
    picture[height // 2 :, width // 3 :, 2] = 60
    return picture


def encoded(image, file_format="PNG", **options):
    """The bytes of a file that holds a PIL image, or an array as one."""
    file = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(file, file_format, **options)
    return file.getvalue()


def rotated(orientation, picture=None):
    """A JPEG whose EXIF says how to hold it; what is stored is ``picture`` as it is."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(colours() if picture is None else picture, "JPEG", quality=100, subsampling=0, exif=exif)


def bomb(side=30_000):
    """A PNG of a kilobyte that says it has 900 million pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def animation():
    """Three frames, the first of which has ``colours``."""
    first, others = (
        Image.fromarray(colours()),
        [Image.new("RGB", (WIDTH, HEIGHT), colour) for colour in ("red", "blue")],
    )
    return encoded(first, "GIF", save_all=True, append_images=others)


def palette():
    """A PNG of 256 colours, one of which is transparent."""
    image = Image.fromarray(colours()).quantize(16)
    return encoded(image, "PNG", transparency=bytes([0, 255]))


def alpha():
    """A PNG whose pixels are transparent to different degrees."""
    transparency = np.arange(HEIGHT * WIDTH, dtype=np.uint8).reshape(HEIGHT, WIDTH, 1)
    return encoded(np.concatenate([colours(), transparency], axis=2))


def sixteen_bits():
    """[H, W] uint16 and a PNG of it."""
    grey = (np.arange(HEIGHT * WIDTH, dtype=np.uint32) * 1213).astype(np.uint16).reshape(HEIGHT, WIDTH)
    grey[0, :4] = [0, 128, 129, 65535]
    return grey, encoded(Image.fromarray(grey))


def usable():
    """File name -> bytes, of pictures that must be read."""
    return {
        "plain.png": encoded(colours()),
        "lossy.jpg": encoded(colours(), "JPEG", quality=95),
        "grey.png": encoded(colours()[..., 0]),
        "black_and_white.png": encoded(Image.fromarray(colours()[..., 0]).convert("1")),
        "cmyk.jpg": encoded(Image.fromarray(colours()).convert("CMYK"), "JPEG", quality=95),
        "palette.png": palette(),
        "alpha.png": alpha(),
        "sixteen_bits.png": sixteen_bits()[1],
        "animated.gif": animation(),
        "one_pixel.png": encoded(colours()[:1, :1]),
        "strip.png": encoded(colours(1, 10_000)),
        "column.png": encoded(colours(10_000, 1)),
        "rotated.jpg": rotated(6),
        "wrong_ending.jpg": encoded(colours()),
    }


def with_wrong_checksum():
    """A PNG whose header says that it was damaged on its way."""
    data = bytearray(encoded(colours()))
    data[data.index(b"IHDR") + 13] ^= 1
    return bytes(data)


def unusable():
    """File name -> bytes, of files that are to be counted and named, and a part of the reason."""
    jpeg = encoded(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), "JPEG")
    return {
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "damaged or cut off"),
        "cut_off.png": (encoded(colours(50, 50))[:-30], "damaged or cut off"),
        "checksum.png": (with_wrong_checksum(), "it begins as PNG, but Pillow cannot read it"),
        "text.jpg": (b"this is no picture\n" * 9, "is no picture"),
        "postscript.jpg": (encoded(colours(), "EPS"), "is no picture of a kind that is read"),
        "icon.png": (encoded(colours(), "ICO"), "is no picture of a kind that is read"),
        "empty.jpg": (b"", "0 bytes"),
        "bomb.png": (bomb(), "900000000 pixels"),
        "float.tif": (encoded(np.ones((4, 4), np.float32), "TIFF"), "mode 'F'"),
    }
