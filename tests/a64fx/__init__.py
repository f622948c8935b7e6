"""Under an emulated A64FX."""
