"""Which image formats Pillow reads here, and which files are images.

Pillow's plug-ins for HEIC and JPEG XL register themselves only when they are imported, so this module imports those that are
installed.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import warnings
from pathlib import Path

from PIL import Image

from retrieval.files.reading import open_file

# Pillow reads more formats. Some of them start other programs (EPS), and none of those stores photographs.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
# Formats of plug-ins: the module that registers them, and the package that holds it.
_PLUGINS = {"HEIF": ("pillow_heif.HeifImagePlugin", "pillow-heif"), "JXL": ("pillow_jxl", "pillow-jxl-plugin")}
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_JXL_HEADS = (b"\xff\x0a", b"\0\0\0\x0cJXL ")
# Pillow takes these for TIFF files and would read the preview of the photograph in place of the photograph.
RAW_SUFFIXES = {
    *(".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dcr", ".dng", ".erf", ".iiq", ".kdc", ".mos", ".mrw"),
    *(".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
}


@functools.cache
def formats() -> tuple[str, ...]:
    """The formats that are read here, by Pillow's names."""
    Image.init()
    for name, (module, _) in _PLUGINS.items():
        if name not in Image.OPEN:
            with contextlib.suppress(ImportError):
                importlib.import_module(module)
    return tuple(name for name in (*_FORMATS, *_PLUGINS) if name in Image.OPEN)


@functools.cache
def suffixes() -> frozenset[str]:
    """The suffixes of these formats, in lower case, such as ".jpg"."""
    readable = {*formats(), "MPO"}  # a JPEG of several pictures, which the format JPEG reads
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in readable) - {".pfm"}


def is_image(path: str | Path) -> bool:
    """Whether a regular file is an image: by its suffix, or else by its content."""
    suffix = Path(path).suffix.lower()
    if suffix in suffixes():
        return True
    if suffix in RAW_SUFFIXES:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with open_file(path) as file, Image.open(file, formats=formats()) as image:
                return image.mode != "F"  # floating-point numbers are a measurement
    except Image.DecompressionBombError:
        return True  # one that is too large, which reading it says
    except Exception:  # noqa: BLE001 - the file can hold anything, and Pillow's plug-ins raise anything
        return False


def missing_package(path: str | Path) -> str | None:
    """The package that has to be installed to read an image; None if the file is of another format or needs none."""
    try:
        with open_file(path) as file:
            return missing_package_for(file.read(16))
    except OSError:
        return None


def missing_package_for(head: bytes) -> str | None:
    """The same from the first 16 bytes of the file."""
    if head.startswith(_JXL_HEADS):
        name = "JXL"
    elif head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        name = "HEIF"
    else:
        return None
    return None if name in formats() else _PLUGINS[name][1]
