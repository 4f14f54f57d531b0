"""Image files as they are met in the wild: what cannot be read, and what is odd but fine."""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageOps

HUGE = 60_000  # pixels on a side


def picture(seed: int) -> np.ndarray:
    """uint8 `[24, 32, 3]`, smooth with some noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8)).resize((32, 24), Image.BICUBIC)
    return np.clip(np.asarray(coarse, int) + random.integers(-20, 21, (24, 32, 3)), 0, 255).astype(np.uint8)


def encode(image: np.ndarray | Image.Image, file_format: str, mode: str | None = None, **settings) -> bytes:
    """The bytes of a file."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, file_format, **settings)
    return buffer.getvalue()


def animated(file_format: str) -> bytes:
    """Three frames."""
    frames = [Image.fromarray(picture(seed)) for seed in (1, 2, 3)]
    return encode(frames[0], file_format, save_all=True, append_images=frames[1:], duration=100)


def chunk(name: bytes, content: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(
    width: int,
    height: int,
    rows: bytes,
    bits: int,
    kind: int,
    before_pixels: dict[bytes, bytes] | None = None,
    interlaced: bool = False,
) -> bytes:
    """A PNG file, of which Pillow writes only some kinds."""

    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, interlaced)
    added = [chunk(*item) for item in (before_pixels or {}).items()]
    parts = chunk(b"IHDR", header), *added, chunk(b"IDAT", zlib.compress(rows, 1)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_rows(levels: np.ndarray, bits: int) -> bytes:
    """The rows of a PNG file, of levels `[h, n]` with 1 to 16 bits."""
    if bits < 8:
        each = np.unpackbits(levels.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        packed = np.packbits(each.reshape(len(levels), -1), axis=-1)
    else:
        packed = levels.astype(">u2" if bits == 16 else np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def png_kinds() -> dict[str, bytes]:
    """A PNG file of each kind: grey, palette, colours, with alpha or a transparent level, of 1 to 16 bits."""
    random, channels = np.random.default_rng(2), {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
    kinds = [(0, 1), (0, 2), (0, 4), (0, 8), (0, 16), (3, 1), (3, 2), (3, 4), (3, 8)]
    kinds += [(kind, bits) for kind in (2, 4, 6) for bits in (8, 16)]
    files = {}
    for kind, bits in kinds:
        levels = random.integers(0, 2**bits, (5, 7 * channels[kind]))
        rows = png_rows(levels, bits)
        palette = {b"PLTE": random.integers(0, 256, 3 * 2**bits, dtype=np.uint8).tobytes()} if kind == 3 else {}
        files[f"kind {kind}, {bits} bits"] = png(7, 5, rows, bits, kind, palette)
        if kind in (0, 2):
            key = levels[2, : channels[kind]].astype(">u2").tobytes()
            files[f"kind {kind}, {bits} bits, a transparent level"] = png(7, 5, rows, bits, kind, {b"tRNS": key})
        if kind == 3:
            alphas = bytes(random.integers(0, 256, 2**bits - 1, dtype=np.uint8))
            files[f"palette, {bits} bits, with alphas"] = png(7, 5, rows, bits, kind, palette | {b"tRNS": alphas})
    return files


ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def interlaced_png(pixels: np.ndarray) -> bytes:
    """A PNG file of uint8 `[h, w, 3]` or `[h, w, 4]` in seven passes."""
    passes = [pixels[top::down, left::right] for top, left, down, right in ADAM7]
    rows = b"".join(png_rows(part.reshape(len(part), -1), 8) for part in passes)
    height, width, channels = pixels.shape
    return png(width, height, rows, 8, {3: 2, 4: 6}[channels], interlaced=True)


def bomb(side: int) -> bytes:
    """A whole PNG file of `side` x `side` black pixels, a few kilobytes."""
    return png(side, side, bytes(side * (side // 8 + 1)), bits=1, kind=0)


def _huge_jpeg(**settings) -> bytes:
    content = bytearray(encode(picture(0), "JPEG", **settings))
    place = content.index(b"\xff\xc2" if settings else b"\xff\xc0")
    content[place + 5 : place + 9] = struct.pack(">HH", HUGE, HUGE)
    return bytes(content)


def _huge_webp() -> bytes:
    """Of the largest size there is, 16383 x 16383."""
    content = bytearray(encode(picture(0), "WEBP"))
    content[26:30] = struct.pack("<HH", 16383, 16383)
    return bytes(content)


def _changed(content: bytes, place: int) -> bytes:
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def bad() -> dict[str, tuple[bytes, str]]:
    """Files that cannot be read, by name, each with a part of what is said of it."""
    jpeg, progressive = encode(picture(0), "JPEG"), encode(picture(0), "JPEG", progressive=True)
    as_png, gif = encode(picture(0), "PNG"), encode(picture(0), "GIF")
    return {
        "empty.jpg": (b"", "empty"),
        "text.jpg": (b"<html>404 not found</html>", "not an image file"),
        "one_byte.png": (b"x", "not an image file"),
        "random.jpg": (np.random.default_rng(0).bytes(2000), "not an image file"),
        "tiff.jpg": (encode(picture(0), "TIFF"), "not an image file"),
        "header_only.jpg": (jpeg[: jpeg.index(b"\xff\xda")], "cut short"),
        "cut_in_the_header.jpg": (jpeg[:40], "cut short"),
        "cut_in_the_middle.jpg": (jpeg[: len(jpeg) * 2 // 3], "cut short"),
        "without_its_last_two_bytes.jpg": (jpeg[:-2], "cut short"),
        "progressive_cut.jpg": (progressive[: len(progressive) * 2 // 3], "cut short"),
        "cut.png": (as_png[: len(as_png) // 2], "cut short"),
        "cut_in_the_header.png": (as_png[:20], "cut short"),
        "one_byte_changed.png": (_changed(as_png, len(as_png) // 2), "damaged"),
        "cut_in_its_first_frame.gif": (gif[: len(gif) // 2], "cut short"),
        "cut.bmp": (encode(picture(0), "BMP")[:-100], "cut short"),
        "animated_webp.jpg": (animated("WEBP"), "of a kind that is not supported"),
        "huge.png": (png(HUGE, HUGE, bytes(1000), bits=8, kind=2), f"{HUGE} x {HUGE} pixels"),
        "huge.jpg": (_huge_jpeg(), f"{HUGE} x {HUGE} pixels"),
        "huge_progressive.jpg": (_huge_jpeg(progressive=True), f"{HUGE} x {HUGE} pixels"),
        "huge.gif": (gif[:6] + struct.pack("<HH", HUGE, HUGE) + gif[10:], f"{HUGE} x {HUGE} pixels"),
        "huge_webp.jpg": (_huge_webp(), "16383 x 16383 pixels"),
    }


def exif(orientation: int, big_endian: bool = False, size: int = 0) -> bytes:
    """EXIF data with an orientation behind another entry, and `size` bytes more, as of a thumbnail."""
    order = ">" if big_endian else "<"
    entries = struct.pack(order + "HHII", 0x010E, 2, 4, 0) + struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    header = b"MM\0*" if big_endian else b"II*\0"
    return b"Exif\0\0" + header + struct.pack(order + "IH", 8, 2) + entries + bytes(4 + size)


def as_seen(content: bytes, background: tuple[int, int, int] = (255, 255, 255)) -> np.ndarray:
    """uint8 `[h, w, 3]` of the bytes of a file by Pillow: turned by its EXIF orientation, on a background."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    ground = Image.new("RGBA", image.size, (*background, 255))
    return np.asarray(Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB"))


def odd() -> dict[str, tuple[bytes, np.ndarray]]:
    """Files that are odd but whole, by name, each with its pixels, uint8 `[h, w, 3]`."""
    random = np.random.default_rng(0)
    grey = random.integers(0, 2**16, (5, 7), dtype=np.uint16)
    colours = random.integers(0, 2**16, (5, 7, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.tobytes() for row in colours.astype(">u2"))
    cmyk, jpeg = encode(picture(0), "JPEG", "CMYK"), encode(picture(0), "JPEG")
    ycck = bytearray(cmyk)
    ycck[cmyk.index(b"Adobe") + 11] = 2  # its colours mean something else now, to Pillow too
    transparent = Image.fromarray(np.dstack([picture(0), picture(1)[..., :1]]))
    files = {
        "png_named.JPEG": encode(picture(0), "PNG"),
        "gif_named.jpg": encode(picture(0), "GIF"),
        "bmp_named.jpg": encode(picture(0), "BMP"),
        "webp_named.jpg": encode(picture(0), "WEBP"),
        "lossless_webp_named.jpg": encode(picture(0), "WEBP", lossless=True),
        "extended_webp_named.jpg": encode(picture(0), "WEBP", exif=b"Exif\0\0"),
        "animated.gif": animated("GIF"),
        "cut_in_its_last_frame.gif": animated("GIF")[:-200],
        "animated.png": animated("PNG"),
        "cmyk.jpg": cmyk,
        "ycck.jpg": bytes(ycck),
        "grey.jpg": encode(picture(0), "JPEG", "L"),
        "progressive.jpg": encode(picture(0), "JPEG", progressive=True),
        "bytes_behind_the_end.jpg": jpeg + b"and more" * 20,
        "grey.png": encode(picture(0), "PNG", "L"),
        "grey_and_alpha.png": encode(transparent, "PNG", "LA"),
        "colours_and_alpha.png": encode(transparent, "PNG"),
        "palette.png": encode(picture(0), "PNG", "P"),
        "one_bit.png": encode(picture(0), "PNG", "1"),
        "one_pixel.png": encode(picture(0)[:1, :1], "PNG"),
        "one_pixel.jpg": encode(picture(0)[:1, :1], "JPEG"),
        "icon.png": encode(transparent.resize((3, 2)), "PNG"),
        "wide_banner.jpg": encode(np.tile(picture(0)[:8], (1, 38, 1))[:, :1200], "JPEG"),
        "transparent_palette.png": encode(picture(0), "PNG", "P", transparency=bytes(range(0, 250, 2))),
        "transparent.gif": encode(transparent, "GIF"),
        "transparent_webp_named.png": encode(transparent, "WEBP"),
        "turned.jpg": encode(picture(0), "JPEG", exif=exif(6)),
        "turned.png": encode(picture(0), "PNG", exif=exif(8)),
        "interlaced.png": interlaced_png(np.asarray(transparent)),
        "row_of_2500.png": encode(np.tile(picture(0)[:1], (1, 80, 1))[:, :2500], "PNG"),
        "column_of_8000.png": encode(np.tile(picture(0)[:, :1], (334, 1, 1))[:8000], "PNG"),
        "one_row.png": encode(np.tile(picture(0)[:1], (1, 9, 1)), "PNG"),
    }
    read = {name: (content, as_seen(content)) for name, content in files.items()}
    # Of numbers of 16 bits the upper eight count.
    sixteen = np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return read | {
        "grey_of_16_bits.png": (encode(grey, "PNG"), sixteen),
        "colours_of_16_bits.png": (png(7, 5, rows, bits=16, kind=2), (colours >> 8).astype(np.uint8)),
    }
