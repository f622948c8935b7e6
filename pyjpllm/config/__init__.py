"""The config tree of a run: schema, presets, loading with overrides, checks."""
