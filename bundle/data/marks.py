"""Machine-readable marks in PNG and NIfTI files that say that an image was made by an algorithm.

The mark people's tools look for is the IPTC property DigitalSourceType in an XMP packet; plain PNG text chunks repeat
it for whoever opens the file without an XMP reader. A NIfTI file has the same fields as JSON in a header extension,
and the first of them in its description too, which more programs keep.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bundle.data.sources import NIFTI_SUFFIXES
from bundle.runs.files import write_atomically

ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"
TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"

_XMP_KEYWORD = "XML:com.adobe.xmp"
_XMP_NAMES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
_XMP_PACKET = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="{rdf}">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="{Iptc4xmpExt}">
   <Iptc4xmpExt:DigitalSourceType>{digital_source_type}</Iptc4xmpExt:DigitalSourceType>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
_OWN_FIELDS = {"SyntheticData": "YES", "Software": "HistoDiffusion"}
_NIFTI_DESCRIPTION = b"SyntheticData=YES HistoDiffusion"
_NIFTI_COMMENT = 6  # code of a header extension of plain text


def save_marked_png(
    path: str | Path,
    image: np.ndarray,
    digital_source_type: str,
    fields: dict[str, str] | None = None,
    durable: bool = False,
) -> None:
    """Write an image as PNG, marked as synthetic. The file appears whole or not at all; equal input, equal bytes.

    Args:
        path: the file to write.
        image: uint8 [height, width, 3], RGB.
        digital_source_type: :data:`ALGORITHMIC_MEDIA` or :data:`TRAINED_ALGORITHMIC_MEDIA`.
        fields: further text chunks, by keyword (1 to 79 Latin-1 characters).
        durable: whether to wait until it is on the disk, as before a list that names it is written.

    Raises:
        ValueError: an image of another type or shape, another source type, or a field named like one of the marks.
    """
    fields = _all_fields(image, digital_source_type, fields)
    chunks = PngInfo()
    chunks.add_itxt(_XMP_KEYWORD, _XMP_PACKET.format(digital_source_type=digital_source_type, **_XMP_NAMES))
    for name, value in fields.items():
        chunks.add_text(name, value)
    write_atomically(
        path, lambda temporary: Image.fromarray(image).save(temporary, format="PNG", pnginfo=chunks), durable=durable
    )


def save_marked_nifti(
    path: str | Path,
    image: np.ndarray,
    digital_source_type: str,
    fields: dict[str, str] | None = None,
    pixel_size: float | None = None,
) -> None:
    """Write an image as compressed NIfTI, marked as synthetic. Whole or not at all; equal input, equal bytes.

    The voxels are uint8 [x, y, 1, channel] with x = column to the right and y = row downward, as MONAI's readers give
    a PNG. MONAI's `LoadImaged` takes the last axis for the channels by itself; of three axes it would make a volume.

    Args:
        path: the file to write, ending in ".nii.gz".
        image: uint8 [height, width, 3], RGB.
        digital_source_type, fields: as of :func:`save_marked_png`.
        pixel_size: of both sides of a pixel, in micrometres; None for unknown, which NIfTI writes as 1.

    Raises:
        ValueError: another suffix, a size that is no positive number, or what :func:`save_marked_png` refuses.
    """
    from nibabel.nifti1 import Nifti1Extension, Nifti1Image  # here, as it is slow to import and seldom needed

    if not str(path).endswith(".nii.gz"):
        raise ValueError(f"{path} can't be a compressed NIfTI file: its name must end in .nii.gz")
    if pixel_size is not None and not 0 < pixel_size < float("inf"):
        raise ValueError(f"pixel_size is {pixel_size}; it must be a positive number of micrometres, or None")
    fields = _all_fields(image, digital_source_type, fields)
    side = 1.0 if pixel_size is None else pixel_size / 1000
    nifti = Nifti1Image(image.swapaxes(0, 1)[:, :, None], np.diag([side, side, side, 1.0]))
    # Millimetres, although the format has a code for micrometres: most programs, MONAI too, never read the code.
    nifti.header.set_xyzt_units("unknown" if pixel_size is None else "mm")
    nifti.header["descrip"] = _NIFTI_DESCRIPTION
    text = json.dumps({**fields, "DigitalSourceType": digital_source_type})
    nifti.header.extensions.append(Nifti1Extension(_NIFTI_COMMENT, text.encode()))
    content = gzip.compress(nifti.to_bytes(), compresslevel=6, mtime=0)
    write_atomically(path, lambda temporary: temporary.write_bytes(content))  # on the disk before a list names it


def _all_fields(image: np.ndarray, digital_source_type: str, fields: dict[str, str] | None) -> dict[str, str]:
    """The fields of a marked file, checked with the rest."""
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image must be uint8 [height, width, 3], not {image.dtype} {list(image.shape)}")
    if digital_source_type not in (ALGORITHMIC_MEDIA, TRAINED_ALGORITHMIC_MEDIA):
        raise ValueError(
            f"digital_source_type {digital_source_type!r} is unknown: "
            "use ALGORITHMIC_MEDIA or TRAINED_ALGORITHMIC_MEDIA"
        )
    fields = fields or {}
    reserved = {*_OWN_FIELDS, _XMP_KEYWORD, "DigitalSourceType"} & set(fields)
    if reserved:
        raise ValueError(f"fields {sorted(reserved)} are written by this function: leave them out")
    return {**_OWN_FIELDS, **fields}


def read_marks(path: str | Path) -> dict[str, str]:
    """The marks of an image file, NIfTI or of any format Pillow opens; {} when it bears none.

    Returns:
        every text chunk of a marked file by keyword, and "DigitalSourceType" where its XMP packet names one; of NIfTI
        the fields of :func:`save_marked_nifti`, or "SyntheticData" alone where only the description is left of them.

    Raises:
        OSError: no such file, or not an image.
    """
    if str(path).lower().endswith(NIFTI_SUFFIXES):
        return _read_nifti_marks(path)
    with Image.open(path) as image:
        texts = {name: str(value) for name, value in getattr(image, "text", {}).items()}
        packet = texts.pop(_XMP_KEYWORD, None) or image.info.get("xmp", "")
    source_type = _digital_source_type(packet)
    if source_type is not None:
        texts["DigitalSourceType"] = source_type
    marked = texts.get("SyntheticData") == "YES" or source_type in (ALGORITHMIC_MEDIA, TRAINED_ALGORITHMIC_MEDIA)
    return texts if marked else {}


def _read_nifti_marks(path: str | Path) -> dict[str, str]:
    import nibabel

    try:
        header = nibabel.load(path).header  # the voxels stay unread
    except (nibabel.filebasedimages.ImageFileError, nibabel.spatialimages.HeaderDataError) as error:
        raise OSError(f"{path} can't be read as NIfTI: {error}") from error
    except (ValueError, EOFError, zlib.error) as error:
        raise OSError(f"{path} can't be read as NIfTI: {error!r}") from error
    for extension in getattr(header, "extensions", ()):
        if extension.get_code() != _NIFTI_COMMENT:
            continue
        try:
            found = json.loads(bytes(extension.get_content()).rstrip(b"\0"))
        except ValueError:  # another program's comment
            continue
        if isinstance(found, dict) and found.get("SyntheticData") == "YES":
            return {str(name): str(value) for name, value in found.items()}
    marked = bytes(header["descrip"]).startswith(_NIFTI_DESCRIPTION) if "descrip" in header else False
    return {"SyntheticData": "YES"} if marked else {}


def _digital_source_type(packet: str | bytes) -> str | None:
    try:
        root = ElementTree.fromstring(packet)
    except (ElementTree.ParseError, ValueError):  # a foreign file without a packet, or with a broken one
        return None
    # XMP allows a property as an element (with text or a resource) or as an attribute; other tools use all three.
    name, resource = f"{{{_XMP_NAMES['Iptc4xmpExt']}}}DigitalSourceType", f"{{{_XMP_NAMES['rdf']}}}resource"
    for element in root.iter():
        value = element.get(name) or (element.get(resource) or element.text if element.tag == name else None)
        if value:
            return value.strip()
    return None
