"""Image files that are made to cost much: small ones that ask for time or memory, and the largest that are read.

`FILES` has a function for each, because some of them are large.
"""

import struct
import zlib

import image_zoo
import numpy as np
from image_zoo import chunk, encode, picture, png
from PIL import Image

SIDE = 9400  # of the largest square that is read
MIB = 2**20


def gif(blocks: bytes, side: int = 32) -> bytes:
    """A file of blocks behind a palette of 256 grey levels."""
    palette = bytes(level for grey in range(256) for level in [grey] * 3)
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0xF7, 0, 0) + palette + blocks + b";"


def gif_frame(width: int, height: int, data: bytes | None = None, parts: int = 255) -> bytes:
    """A grey frame that Pillow compresses, or with compressed data as given, in parts of so many bytes."""
    data = data or compressed(np.resize(picture(0)[..., 0], (height, width)))
    blocks = b"".join(bytes([len(part)]) + part for part in _split(data, parts))
    return b"," + struct.pack("<HHHHBB", 0, 0, width, height, 0, 8) + blocks + b"\0"


def compressed(levels: np.ndarray) -> bytes:
    """The data of a frame with these levels, uint8 `[h, w]`."""
    as_palette = Image.fromarray(levels)
    as_palette.putpalette(bytes(level for grey in range(256) for level in [grey] * 3))
    content = encode(as_palette, "GIF", optimize=False, interlace=0)
    place = 13 + 3 * 2 ** ((content[10] & 7) + 1)
    assert content[place : place + 1] == b"," and content[place + 9] & 0x80 == 0 and content[place + 10] == 8
    place, data = place + 11, []
    while content[place]:
        data.append(content[place + 1 : place + 1 + content[place]])
        place += content[place] + 1
    return b"".join(data)


def _split(data: bytes, count: int) -> list[bytes]:
    return [data[start : start + count] for start in range(0, len(data), count)]


def gif_frames(side: int, count: int) -> bytes:
    """Frames of one grey level."""
    return gif(gif_frame(side, side, compressed(np.zeros((side, side), np.uint8))) * count, side)


def jpeg_segments(marker: int, data: bytes, size: int = 65_533) -> bytes:
    """Segments that together hold the data."""
    return b"".join(bytes([255, marker]) + struct.pack(">H", len(part) + 2) + part for part in _split(data, size))


def jpeg_with(segments: bytes, **settings) -> bytes:
    """A small picture with segments in front."""
    content = encode(picture(0), "JPEG", **settings)
    return content[:2] + segments + content[2:]


def jpeg_scans(side: int, count: int) -> bytes:
    """A grey progressive file with more scans, which change nothing: coefficients 1 to 63 of the only component."""
    grey = black((side, side), "JPEG", progressive=True)
    scan = b"\xff\xda\0\x08\x01\x01\0\x01\x3f\0"
    return grey[:-2] + scan * count + grey[-2:]


def jpeg_sequential_scans(side: int, count: int) -> bytes:
    """As `jpeg_scans`, of colours without interlacing: each component has a scan of its own, and may have more."""
    content = bytearray(encode(Image.fromarray(np.zeros((side, side, 3), np.uint8)), "JPEG"))
    place = content.index(b"\xff\xda")
    scans = [b"\xff\xda\0\x08\x01" + bytes([component]) + b"\0\0\x3f\0" for component in (1, 2, 3)]
    return bytes(content[:place]) + b"".join(scans) + scans[0] * count + b"\xff\xd9"


def icc_jpeg(size: int) -> bytes:
    """With a colour profile."""
    return encode(picture(0), "JPEG", icc_profile=np.random.default_rng(0).bytes(size))


def wrong_exif(count: int = 2**32 - 1, offset: int = 8) -> bytes:
    """EXIF data whose entries claim to be `count` values, in a directory at `offset`."""
    entries = struct.pack("<HHII", 0x0112, 3, count, 6) * 2
    return b"Exif\0\0II*\0" + struct.pack("<IH", offset, 65_535) + entries


def png_with(before: bytes = b"", behind: bytes = b"", **settings) -> bytes:
    """A small picture with chunks in front of its pixels, or behind them."""
    content = encode(picture(0), "PNG", **settings)
    return content[:33] + before + content[33:-12] + behind + content[-12:]


def png_bomb(name: bytes, header: bytes, expanded: int) -> bytes:
    """A chunk that expands to so many bytes."""
    packer = zlib.compressobj(9)
    packed = b"".join([packer.compress(bytes(MIB)) for _ in range(expanded // MIB)] + [packer.flush()])
    return chunk(name, header + packed)


def png_in_tiny_chunks(side: int) -> bytes:
    """Noise, one byte of it in each chunk."""
    levels = np.random.default_rng(0).integers(0, 256, (side, side), dtype=np.uint8)
    packed = zlib.compress(image_zoo.png_rows(levels, 8))
    content = png(side, side, b"", 8, 0)
    return content[:33] + b"".join(chunk(b"IDAT", bytes([byte])) for byte in packed) + content[-12:]


def png_behind_a_false_header(side: int) -> bytes:
    """A large file whose first chunk, which is none of the standard, looks like the header of a small one."""
    content = image_zoo.bomb(side)
    return content[:8] + chunk(b"abCd", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)) + content[8:]


def bmp(width: int, height: int, bits: int) -> bytes:
    """Black pixels."""
    palette = bytes(4 * 256) if bits == 8 else b""
    start, size = 54 + len(palette), (width * bits // 8 + 3) // 4 * 4 * abs(height)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, size, 0, 0, 256 if bits == 8 else 0, 0)
    return b"BM" + struct.pack("<IHHI", min(start + size, 2**32 - 1), 0, 0, start) + info + palette + bytes(size)


def webp_frames(side: int, count: int) -> bytes:
    frames = [Image.new("RGB", (side, side), (level, 0, 0)) for level in range(count)]
    return encode(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True, method=0)


def black(shape: tuple[int, ...], file_format: str, **settings) -> bytes:
    return encode(Image.fromarray(np.zeros(shape, np.uint8)), file_format, **settings)


BLOCK = b"!\xfe"  # begins a comment of a GIF file
FILES = {
    "GIF, 20 frames of 88 megapixels": lambda: gif_frames(SIDE, 20),
    "GIF, a second frame of 4295 megapixels": lambda: gif(
        gif_frame(32, 24) + b"," + struct.pack("<HHHHBB", 0, 0, 65_535, 65_535, 0, 8) + b"\1\0\0", 32
    ),
    "GIF, 1,000,000 frames of one pixel": lambda: gif(gif_frame(32, 24) + gif_frame(1, 1) * 1_000_000),
    "GIF, 300 MB of frames": lambda: gif(gif_frame(32, 24) * (300_000_000 // len(gif_frame(32, 24)))),
    "GIF, a comment of 5,000,000 parts": lambda: gif(BLOCK + b"\1x" * 5_000_000 + b"\0" + gif_frame(32, 24)),
    "GIF, 1,000,000 comments": lambda: gif((BLOCK + b"\1x\0") * 1_000_000 + gif_frame(32, 24)),
    "GIF, a frame in parts of one byte": lambda: gif(gif_frame(2000, 2000, parts=1), 2000),
    "GIF, 20 MB behind the pixels of a frame": lambda: gif(
        gif_frame(32, 24, compressed(picture(0)[..., 0]) + bytes(10 * MIB), parts=1)
    ),
    "JPEG, progressive, 50,000 scans": lambda: jpeg_scans(1000, 50_000),
    "JPEG, progressive, 100 scans of 88 megapixels": lambda: jpeg_scans(SIDE, 93),
    "JPEG, sequential, 50,000 scans": lambda: jpeg_sequential_scans(1000, 50_000),
    "JPEG, progressive, 88 megapixels": lambda: black((SIDE, SIDE, 3), "JPEG", progressive=True, subsampling=0),
    "JPEG, progressive, 88 megapixels of four inks": lambda: encode(
        Image.new("CMYK", (SIDE, SIDE)), "JPEG", progressive=True
    ),
    "JPEG, 88 megapixels": lambda: black((SIDE, SIDE, 3), "JPEG"),
    "JPEG, 1,000,000 comments": lambda: jpeg_with(jpeg_segments(0xFE, b"x" * 1_000_000, 1)),
    "JPEG, 10 MB of fill bytes": lambda: jpeg_with(b"\xff" * 10_000_000),
    "JPEG, a profile of 10 MB": lambda: icc_jpeg(10_000_000),
    "JPEG, 65,500 x 1": lambda: black((1, 65_500, 3), "JPEG"),
    "JPEG, 65,535 x 8": lambda: _resized_jpeg(65_535, 8),
    "JPEG, four inks": lambda: encode(picture(0), "JPEG", "CMYK"),
    "JPEG, EXIF with 2^32 values": lambda: encode(picture(0), "JPEG", exif=wrong_exif()),
    "JPEG, EXIF with its directory at 2^32": lambda: encode(picture(0), "JPEG", exif=wrong_exif(1, 2**32 - 1)),
    "JPEG, EXIF cut short": lambda: encode(picture(0), "JPEG", exif=image_zoo.exif(6)[:20]),
    "PNG, a profile of 1 GiB": lambda: png_with(png_bomb(b"iCCP", b"x\0\0", 1024 * MIB)),
    "PNG, a text of 1 GiB": lambda: png_with(png_bomb(b"zTXt", b"x\0\0", 1024 * MIB)),
    "PNG, 1000 texts of 7 MiB": lambda: png_with(png_bomb(b"zTXt", b"x\0\0", 7 * MIB) * 1000),
    "PNG, 1000 texts of 7 MiB behind the pixels": lambda: png_with(
        behind=png_bomb(b"iTXt", b"x\0\1\0\0\0", 7 * MIB) * 1000
    ),
    "PNG, 1 GiB behind the pixels": lambda: _png_with_more_pixels(1024),
    "PNG, one byte in each of 1,000,000 chunks": lambda: png_in_tiny_chunks(1000),
    "PNG, 1,000,000 empty chunks": lambda: png_with(chunk(b"abCd", b"") * 1_000_000),
    "PNG, 1,000,000 empty texts": lambda: png_with(chunk(b"tEXt", b"x\0") * 1_000_000),
    "PNG, a profile of 10 MB": lambda: encode(picture(0), "PNG", icc_profile=np.random.default_rng(0).bytes(10**7)),
    "PNG, a false header": lambda: png_behind_a_false_header(12_000),
    "PNG, 88 megapixels of 16 bits with alpha": lambda: png(SIDE, SIDE, bytes(SIDE * (8 * SIDE + 1)), 16, 6),
    "PNG, interlaced, 88 megapixels": lambda: image_zoo.interlaced_png(np.zeros((SIDE, SIDE, 3), np.uint8)),
    "PNG, grey, 16 bits": lambda: encode(np.arange(768, dtype=np.uint16).reshape(24, 32) * 85, "PNG"),
    "PNG, 1 x 1": lambda: black((1, 1), "PNG"),
    "PNG, 1,000,000 x 1": lambda: black((1, 1_000_000), "PNG"),
    "PNG, 1 x 1,000,000": lambda: black((1_000_000, 1), "PNG"),
    "PNG, noise of 120 MB": lambda: encode(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (5000, 6000, 4), dtype=np.uint8)),
        "PNG",
        compress_level=0,
    ),
    "WebP, 20 frames of 25 megapixels": lambda: webp_frames(5000, 20),
    "WebP, 88 megapixels with alpha": lambda: encode(
        Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 4)), "WEBP", lossless=True, method=0
    ),
    "WebP, 88 megapixels": lambda: encode(Image.new("RGB", (SIDE, SIDE)), "WEBP", method=0),
    "WebP, a profile of 10 MB": lambda: encode(picture(0), "WEBP", icc_profile=np.random.default_rng(0).bytes(10**7)),
    "BMP, 88 megapixels, palette": lambda: bmp(SIDE, SIDE, 8),
    "BMP, 88 megapixels, four bytes each": lambda: bmp(SIDE, SIDE, 32),
    "BMP, 88 megapixels, bottom up": lambda: bmp(SIDE, -SIDE, 24),
    "BMP, 300 megapixels": lambda: bmp(20_000, 15_000, 8),
}


def _resized_jpeg(width: int, height: int) -> bytes:
    content = bytearray(encode(picture(0), "JPEG"))
    place = content.index(b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def _png_with_more_pixels(mebibytes: int) -> bytes:
    content = png(32, 24, b"", 8, 0)
    rows = bytes(24 * 33)
    packer = zlib.compressobj(9)
    parts = [packer.compress(rows), *(packer.compress(bytes(MIB)) for _ in range(mebibytes)), packer.flush()]
    return content[:33] + chunk(b"IDAT", b"".join(parts)) + content[-12:]
