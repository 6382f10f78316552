"""Pictures with boxes: readers of COCO, VOC, YOLO and `datasets`, and views that move boxes with their pixels."""

from limbeck.sources.boxes.detection_set import CROWD, PADDING, DetectionSet, Taking
from limbeck.sources.boxes.found import Found
from limbeck.sources.boxes.moves import BoxView, build_box_view
from limbeck.sources.boxes.names import DetectionData, load_boxes
from limbeck.sources.boxes.regions import Regions

__all__ = [
    "CROWD",
    "PADDING",
    "BoxView",
    "DetectionData",
    "DetectionSet",
    "Found",
    "Regions",
    "Taking",
    "build_box_view",
    "load_boxes",
]
