"""Tensors as bytes: which there are, their elements, strides and memory. Nothing of files."""
