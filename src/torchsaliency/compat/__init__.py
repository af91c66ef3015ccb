"""The way over from other libraries: their names and calls, thin over this one.

`torchsaliency.compat.NAME` stands for the package NAME. Only the import line of a program changes;
numbers are the other library's where it is right, and the page docs/from-NAME.md says where it is
not. None of them imports the library whose names it has, or OpenCV.
"""
