"""Parts of the monitor: each is given what it shows and draws it; none reads files or devices."""
