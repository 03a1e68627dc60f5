"""The published study of test-time augmentation (Moshkov et al. 2020, Sci Rep 10:5068), reproduced and extended.

A plain U-Net and a Mask R-CNN are trained on shares of the Data Science Bowl 2018 images, kept at several steps, and
scored with and without views on images of families that training never saw. `python -m benchmarks.tta_study --help`.
"""
