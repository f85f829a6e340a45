"""The formats that can be imported. A new one is a module with a `Format`, and its line here."""

from __future__ import annotations

from bcnet_core.importers.coco import COCO
from bcnet_core.importers.label_images import MASKS
from bcnet_core.importers.labelme import LABELME
from bcnet_core.importers.mask_files import MASK_FILES
from bcnet_core.importers.sa1b import SA1B
from bcnet_core.importers.source import Format
from bcnet_core.importers.yolo import YOLO

FORMATS: tuple[Format, ...] = (SA1B, LABELME, YOLO, COCO, MASK_FILES, MASKS)
"""In the order in which they are tried on a source whose format is not given: the most specific first."""
