"""Mask R-CNN for nuclei: proposals, boxes and masks of single objects, from random weights to one ONNX file.

He et al. (2017), Mask R-CNN, ICCV, with what one object size allows to leave out. Images are rescaled so that nuclei
have one diameter: few anchors suffice, one feature map serves all boxes, and masks are cut from a finer one.

Boxes are `(top, left, bottom, right)` in pixels throughout; the pixel in row `r` covers `r` to `r + 1`.
"""
