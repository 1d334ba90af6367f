"""What the program a person sees and the engine it launches have agreed on: settings, events, files."""
