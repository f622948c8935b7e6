"""Loops of other libraries' FP32 products, written anew from their published tile shapes, to calibrate against."""
