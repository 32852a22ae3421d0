"""Machine-readable marks in PNG files that say that an image was made by an algorithm.

The mark people's tools look for is the IPTC property DigitalSourceType in an XMP packet; plain PNG text chunks repeat
it for whoever opens the file without an XMP reader.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bundle.files import write_atomically

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


def save_marked_png(
    path: str | Path, image: np.ndarray, digital_source_type: str, fields: dict[str, str] | None = None
) -> None:
    """Write an image as PNG, marked as synthetic. The file appears whole or not at all; equal input, equal bytes.

    Args:
        path: the file to write.
        image: uint8 [height, width, 3], RGB.
        digital_source_type: :data:`ALGORITHMIC_MEDIA` or :data:`TRAINED_ALGORITHMIC_MEDIA`.
        fields: further text chunks, by keyword (1 to 79 Latin-1 characters).

    Raises:
        ValueError: an image of another type or shape, another source type, or a field named like one of the marks.
    """
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

    chunks = PngInfo()
    chunks.add_itxt(_XMP_KEYWORD, _XMP_PACKET.format(digital_source_type=digital_source_type, **_XMP_NAMES))
    for name, value in {**_OWN_FIELDS, **fields}.items():
        chunks.add_text(name, value)
    write_atomically(
        path, lambda temporary: Image.fromarray(image).save(temporary, format="PNG", pnginfo=chunks), durable=False
    )


def read_marks(path: str | Path) -> dict[str, str]:
    """The marks of an image file of any format Pillow opens; {} when it bears none.

    Returns:
        every text chunk of a marked file by keyword, and "DigitalSourceType" where its XMP packet names one.

    Raises:
        OSError: no such file, or not an image.
    """
    with Image.open(path) as image:
        texts = {name: str(value) for name, value in getattr(image, "text", {}).items()}
        packet = texts.pop(_XMP_KEYWORD, None) or image.info.get("xmp", "")
    source_type = _digital_source_type(packet)
    if source_type is not None:
        texts["DigitalSourceType"] = source_type
    marked = texts.get("SyntheticData") == "YES" or source_type in (ALGORITHMIC_MEDIA, TRAINED_ALGORITHMIC_MEDIA)
    return texts if marked else {}


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
