"""What the screens and commands use: processes, files, devices. No widgets in here."""
