"""What can be said of A64FX without one: instructions counted under emulation, loops judged by a model of the core."""
