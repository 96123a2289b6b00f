"""Faster R-CNN with a ResNet-101-C4: from a picture to the regions that ViLBERT reads.

Read in this order: config, backbone, proposals, pooling, heads, faster_rcnn, selection, detections; boxes and
suppression are the arithmetic below them.
"""
