"""The shipped presets, as package data: see `engine.contract.presets`."""
